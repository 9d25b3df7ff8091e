"""Detectors against torchvision's of the same shapes, and where each detector's time goes.

Training steps (forward, loss, backward; the update is left out, it is the same) and inference with post-processing, in turns: one of
ours, one of theirs, in processor time, so that whatever the machine does meanwhile happens to both and counts little. Weights are random,
pictures too, activations in place on both sides. Peak memory is that of a process of its own that does one training step.

`python -m benchmarks.detection RUN RUN …` measures finished runs of any detectors on the same test pictures instead: mean average
precision and milliseconds a picture, proposals, features, heads and suppression apart (the table beside `lab compare`'s picture).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import Row, highest_memory, machine, ratio
from benchmarks.two_stages import our_faster_rcnn, torchvisions_faster_rcnn
from components.layers.convolutions import VGG16
from components.models.ssd import SSD
from components.objectives.multibox import MultiBox

CLASSES = 20
GOAL = 1.0
PAIRS = 5
OBJECTS = 3
SSD300: dict[str, Any] = {
    "input_shape": [3, 300, 300],
    "classes": CLASSES,
    "stages": VGG16,
    "context": [1024, 6],
    "extras": [[256, 512, 2], [128, 256, 2], [128, 256, 1], [128, 256, 1]],
    "scales": [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
    "ratios": [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
    "steps": [8, 16, 32, 64, 100, 300],
    "maps": [0, 1, 2, 3, 4, 5],
}
Step = Callable[[], Any]


def pictures(count: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Random pictures of 300×300 with three objects each: inputs, boxes, labels from 0."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(count, OBJECTS, 2, generator=generator) * 150
    boxes = torch.cat([corner, corner + 30 + torch.rand(count, OBJECTS, 2, generator=generator) * 120], dim=2)
    labels = torch.randint(CLASSES, (count, OBJECTS), generator=generator)
    return torch.rand(count, 3, 300, 300, generator=generator), list(boxes), list(labels)


def our_ssd(batch: int) -> tuple[Step, Step]:
    """A training step and an inference of ours."""
    torch.manual_seed(0)
    model = SSD(activation=partial(nn.ReLU, inplace=True), **SSD300)
    objective = MultiBox(classes=CLASSES, class_names=[str(name) for name in range(CLASSES)], score_threshold=0.01, limit=200)
    inputs, boxes, labels = pictures(batch)
    given = {"inputs": inputs, "boxes": boxes, "labels": labels}

    def train() -> None:
        model.train()
        model.zero_grad()
        objective.losses(model, given)["loss"].backward()  # type: ignore[no-untyped-call]

    def infer() -> None:
        model.eval()
        objective.detect(model, {"inputs": inputs})

    return train, infer


def torchvisions_ssd(batch: int) -> tuple[Step, Step]:
    """The same of torchvision's ssd300_vgg16."""
    from torchvision.models.detection import ssd300_vgg16

    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=1 + CLASSES)
    inputs, boxes, labels = pictures(batch)
    targets = [{"boxes": box, "labels": label + 1} for box, label in zip(boxes, labels, strict=True)]

    def train() -> None:
        model.train()
        model.zero_grad()
        sum(model(list(inputs), targets).values()).backward()

    def infer() -> None:
        model.eval()
        with torch.no_grad():
            model(list(inputs))

    return train, infer


PAIRED: Mapping[str, tuple[Callable[[int], tuple[Step, Step]], Callable[[int], tuple[Step, Step]]]] = {
    "SSD300": (our_ssd, torchvisions_ssd),
    "Faster R-CNN": (lambda batch: our_faster_rcnn(pictures(batch)), lambda batch: torchvisions_faster_rcnn(pictures(batch))),
}
"""Name → ours and the reference, each making a training step and an inference for a batch size."""


def in_turns(ours: Step, theirs: Step, pairs: int) -> tuple[list[float], list[float]]:
    """Processor seconds of each; the first of both is not counted."""
    ours(), theirs()
    found: tuple[list[float], list[float]] = [], []
    for _ in range(pairs):
        for seconds, step in zip(found, (ours, theirs), strict=True):
            began = time.process_time()
            step()
            seconds.append(time.process_time() - began)
    return found


def peak(name: str, place: int, batch: int) -> float:
    """MB that a training step needs at most, in a process of its own; `place` 0 is ours, 1 the reference."""
    program = f"from benchmarks.detection import peak_of; peak_of({name!r}, {place}, {batch})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_of(name: str, place: int, batch: int) -> None:
    """Do one training step and print this process's peak memory in MB."""
    train, _ = PAIRED[name][place](batch)
    train()
    print(highest_memory() / 1024)


def measure(*, pairs: int = PAIRS, batch: int = 4, names: tuple[str, ...] = tuple(PAIRED)) -> list[Row]:
    """Rows for each detector: training step, inference, peak memory."""
    rows: list[Row] = []
    for name in names:
        ours, theirs = (make(batch) for make in PAIRED[name])
        for what, mine, its in zip(("training step", "inference"), ours, theirs, strict=True):
            title = f"detection: {name}, {what}, {batch} pictures of 300×300"
            rows.append(ratio(title, *in_turns(mine, its, pairs), unit="ms", scale=1000, goal=GOAL))
        memory = [peak(name, place, batch) for place in (0, 1)]
        rows.append(ratio(f"detection: {name}, peak memory of a training step", [memory[0]], [memory[1]], unit="MB"))
    return rows


def table_of_runs(runs: list[str]) -> str:
    """Finished detectors side by side on the test pictures of their data, measured in turns, as a Markdown table."""
    from components.metrics.times import Spent
    from flows import runs as known
    from flows.comparison import in_turns
    from flows.experiment import read_config
    from flows.lab.settings import Settings
    from flows.parts import load_model, load_outcomes, prepare_data

    settings = Settings.load()
    phases = ("proposals", "features", "heads", "decoding", "suppression")
    folders = [known.find(name, settings) for name in runs]
    given = {folder.name: (load_model(folder / "model"), prepare_data(read_config(folder), settings).splits["test"]) for folder in folders}
    examined = in_turns(given)
    lines: list[str] = []
    for folder in folders:
        spent = Spent.of(examined[folder.name])
        objective: Any = given[folder.name][0].objective
        metrics = objective.metrics(load_outcomes(folder / "outcomes" / "test"))
        parts = " | ".join(f"{spent.phases.get(phase, 0.0):.1f}" for phase in phases)
        time = f"{spent.median:.1f} | {spent.low:.1f} … {spent.high:.1f}"
        lines.append(f"| {read_config(folder)['name']} | {metrics['map_50']:.3f} | {metrics['map_07']:.3f} | {time} | {parts} |")
    columns = ("detector", "mAP@0.5", "VOC07", "ms a picture", "middle half", *phases)
    return "\n".join([f"| {' | '.join(columns)} |", "|" + "---|" * len(columns), *lines])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.detection", description="Detectors' accuracy and time on the same pictures."
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="finished runs of detectors on the same data")
    print(machine(), flush=True)
    print(table_of_runs(parser.parse_args().runs))
