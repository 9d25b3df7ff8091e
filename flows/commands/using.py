"""`lab prepare`, `config`, `evaluate`, `predict`, `compare`: everything around a training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from components.errors import LabError, RequestError
from flows.commands import complete
from flows.commands.output import Json, Output
from flows.commands.training import Overrides

TRAINED = "The run: its name, the beginning of it, MLflow's id, or last"
Run = Annotated[str, typer.Argument(help=f"{TRAINED}.", autocompletion=complete.runs)]


def prepare(
    overrides: Annotated[list[str], typer.Argument(help="data=NAME, and data.KEY=VALUE to change it.", autocompletion=complete.data)],
    *,
    json: Json = False,
) -> None:
    """Prepare a data set: fetch, verify, split, store under its fingerprint."""
    import time

    from flows.lab.settings import Settings
    from flows.parts import data_section, prepare_data

    output, settings, began = Output(json), Settings.load(), time.monotonic()
    prepared = prepare_data({"data": data_section(overrides)}, settings, tell=lambda line: output.say(line["text"]))
    seconds = round(time.monotonic() - began, 3)
    card = prepared.card
    output.table(["split", "examples"], [[split, str(count["examples"])] for split, count in card["counts"].items()])
    for key in ("source", "licence", "fingerprint"):
        output.say(f"{key:<12} {card[key]}")
    output.say(f"{'folder':<12} {prepared.folder}")
    output.finish(name=prepared.name, fingerprint=prepared.fingerprint, folder=str(prepared.folder), counts=card["counts"], seconds=seconds)


def config(overrides: Overrides = None, *, json: Json = False) -> None:
    """Print the composed and checked configuration."""
    from flows.config.build import validate
    from flows.config.compose import compose

    if not overrides:
        raise RequestError("say what to compose, such as: lab config experiment=mlp_mnist")
    output = Output(json)
    composed = validate(compose(overrides))
    if not json:
        import yaml

        output.say(yaml.safe_dump(composed, sort_keys=False, allow_unicode=True).rstrip())
    output.finish(**composed)


def evaluate(
    run: Run,
    *,
    split: Annotated[str, typer.Option(help="Which examples: test, validation or train.")] = "test",
    json: Json = False,
) -> None:
    """Evaluate a finished run's model again on one split of its data."""
    from flows.evaluation import evaluate_and_record
    from flows.lab.settings import Settings

    output = Output(json)
    found = evaluate_and_record(run, split, Settings.load())
    output.table(["metric", split], [[name, f"{value:.4f}"] for name, value in sorted(found["metrics"].items())])
    output.say(f"{found['run']} on {split}, {found['seconds']:.1f} s")
    output.finish(**found)


def predict(
    run: Annotated[str, typer.Argument(help=f"{TRAINED}; or registry:NAME@ALIAS, or experiment:NAME.", autocompletion=complete.runs)],
    given: Annotated[
        list[str], typer.Argument(help="What to answer: picture files or folders; or texts, or text files.", show_default=False)
    ],
    *,
    into: Annotated[str | None, typer.Option(help="Folder for pictures with what was found in them (LAB_HOME/predictions/RUN).")] = None,
    settings_of_answers: Annotated[
        list[str] | None, typer.Option("--set", help="Answer by another setting: objective.temperature=0.5, objective.beams=4.")
    ] = None,
    json: Json = False,
) -> None:
    """Let a trained model answer: name a picture, find what is in it; judge, translate, summarise or continue a text."""
    from flows import runs
    from flows.lab.settings import Settings
    from flows.prediction import predict_each, stream, write_objects

    _refuse_settings(given)
    output, settings, changed = Output(json), Settings.load(), settings_of_answers or []
    name, folder = runs.model_folder(run, settings)
    target = Path(into).expanduser() if into else settings.home / "predictions" / name.replace(" ", "-")
    if len(given) == 1 and not json and output.people.isatty():
        pieces = stream(folder, given[0], changed)  # a continuation is shown as it is written
        if pieces is not None:
            output.stream(pieces)
            return
    rows: list[list[str]] = []
    answers: list[dict[str, Any]] = []
    taken: set[str] = set()
    notes: list[str] = []
    for one, found in predict_each(folder, given, changed, tell=notes.append):
        answer = found
        if isinstance(answer, dict) and "objects" in answer:
            try:
                drawn = write_objects(one, answer, target, taken=taken)
            except LabError as error:
                answer = error
            else:
                taken.add(drawn.stem)
                answer |= {"picture": str(drawn)}
        answers.append({"given": one, **(answer if isinstance(answer, dict) else {"error": str(answer)})})
        rows.append([_one_line(one), *_in_words(answer, one)])
    errors = [str(answer["error"]) for answer in answers if "error" in answer]
    if len(errors) < len(answers) or len(answers) > 1:
        output.table(["given", "answer", "besides"], rows)
    for note in notes:
        output.say(note)
    if any("picture" in answer for answer in answers):
        output.say(f"pictures and JSON in {target}")
    output.finish_or_fail(errors, len(answers), run=name, predictions=answers, **({"notes": notes} if notes else {}))


def compare(
    chosen: Annotated[
        list[str], typer.Argument(help="Two runs or more, on the same data.", autocompletion=complete.runs, show_default=False)
    ],
    *,
    json: Json = False,
) -> None:
    """Put finished runs side by side: their test metrics in one table, and pictures of all of them together."""
    from flows import runs
    from flows.comparison import compare as side_by_side
    from flows.lab.settings import Settings

    if len(chosen) < 2:
        raise RequestError("say which runs to compare: two or more")
    output, settings = Output(json), Settings.load()
    metrics, figures = side_by_side([runs.find(run, settings) for run in chosen], settings)
    names = sorted({name for found in metrics.values() for name in found})
    table = [[name, *(f"{found[name]:.4f}" if name in found else "" for found in metrics.values())] for name in names]
    output.table(["metric", *metrics], table)
    folder = settings.home / "comparisons" / "-".join(metrics)[:100]
    paths = {name: folder / f"{name}.png" for name in figures}
    for name, figure in figures.items():
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(paths[name])
        output.say(f"picture      {paths[name]}")
    output.finish(metrics=metrics, pictures={name: str(path) for name, path in paths.items()})


_SETTING = re.compile(r"(objective|data|model|trainer)(\.\w+)+=\S*")


def _refuse_settings(given: list[str]) -> None:
    """Raise RequestError where something that was given is a setting, which would be taken for a text."""
    for one in given:
        if _SETTING.fullmatch(one):
            raise RequestError(
                f"{one} is a setting and nothing to answer: write --set {one} (if it is the text itself, put a space behind it)"
            )


SHOWN_OBJECTS = 6
SHOWN_CHARACTERS = 60
"""Of a longer text that was given, the table shows the beginning."""


def _one_line(given: str) -> str:
    line = " ".join(given.split())
    return line if len(line) <= SHOWN_CHARACTERS or "/" in line else f"{line[: SHOWN_CHARACTERS - 1]}…"


def _in_words(answer: dict[str, Any] | LabError, given: str) -> list[str]:
    """The answer to what was given, and what else there is to say about it."""
    if isinstance(answer, LabError):
        place, colon, reason = str(answer).partition(": ")  # the first column has the file's name already
        return [f"error: {reason if colon and place.endswith(given.removeprefix('~')) else answer}", ""]
    besides = []
    if "answers" in answer:
        first, *others = answer["answers"]
        said = f"{first['label']}  {first['probability']:.1%}"
        besides += [f"{other['label']} {other['probability']:.1%}" for other in others]
    elif "objects" in answer:
        said = f"{len(answer['objects']):,} objects" if len(answer["objects"]) != 1 else "1 object"
        besides += [f"{found['label']} {found['probability']:.0%}" for found in answer["objects"][:SHOWN_OBJECTS]]
        besides += [f"and {len(answer['objects']) - SHOWN_OBJECTS:,} more"] if len(answer["objects"]) > SHOWN_OBJECTS else []
        if not answer["objects"]:
            besides.append(f"nothing is more probable than {answer['threshold']:g} (--set objective.answer_threshold=… shows more)")
    else:
        said = answer["text"] if "text" in answer else ", ".join(f"{value:g}" for value in answer["values"])
    if "follows" in answer:
        besides.append(f"the second text follows the first: {answer['follows']:.1%}")
    if "unknown" in answer:
        besides.append(f"{answer['unknown']:,} unknown to the vocabulary")
    if "truncated" in answer:
        besides.append(f"only the first {answer['tokens_read']:,} of {answer['tokens']:,} tokens were read")
    if "cut" in answer:
        besides.append(f"cut after {answer['cut']:,} tokens")
    return [said, ", ".join(besides)]


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    for command in (prepare, evaluate, predict, compare, config):
        app.command()(command)
