"""What the transformers here cost: a training step, and writing, against nanoGPT's block and against Hugging Face's `transformers`.

All sides have the same shape, batch and lengths, random weights, no dropout, torch's fused attention, and take turns in one process on one
thread, measured in processor time. A training step is forward, loss, backward and update: ours with the optimizer that the lab builds,
theirs with torch's AdamW as it comes; the passes alone are measured beside. Generation is greedy, with each side's own cache of keys and
values. nanoGPT's block is written anew from its published description: one linear layer for query, key and value, and no biases, as in its
setting for a CPU.

`transformers` is there where the tests' dependencies are. Peak memory is that of a process of its own for each side, beyond what it had
before it built the model.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import Row, highest_memory, ratio
from components.decoding import beam_search, greedy
from components.models.bart import Bart
from components.models.bert import Bert
from components.models.gpt import GPT
from components.optimizers import AdamW

GOAL = 1.0


@dataclass(frozen=True)
class Shape:
    """Sizes, batch and lengths.

    Attributes:
        batch, length: of a training step, in texts and tokens; BART reads and writes `length` tokens each.
        prompt, written: tokens that generation begins with, and writes.
        biases: of GPT, which nanoGPT's setting has not.
    """

    vocabulary: int = 2000
    channels: int = 128
    heads: int = 4
    layers: int = 4
    batch: int = 12
    length: int = 64
    prompt: int = 16
    written: int = 48
    biases: bool = True

    def __str__(self) -> str:
        return f"{self.layers} layers, {self.channels} channels, {self.heads} heads, {self.vocabulary:,} tokens known"


NANO = Shape(vocabulary=65, biases=False)
SMALL = Shape()


# ------------------------------------------------------------------------------------------------------------ nanoGPT's model


class NanoBlock(nn.Module):
    """Norm, attention by one layer for query, key and value; norm, feed-forward; no biases."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(channels, bias=False), nn.LayerNorm(channels, bias=False)
        self.all_three, self.mix = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.up, self.down = nn.Linear(channels, 4 * channels, bias=False), nn.Linear(4 * channels, channels, bias=False)
        self.gelu = nn.GELU()
        self.drops = nn.ModuleList(nn.Dropout(0.0) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) → (B, T, C)."""
        batch, time_, channels = x.shape
        parts = self.all_three(self.first(x)).split(channels, dim=2)
        query, key, value = (part.view(batch, time_, self.heads, channels // self.heads).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=None, dropout_p=0, is_causal=True)
        x = x + self.drops[0](self.mix(y.transpose(1, 2).contiguous().view(batch, time_, channels)))
        found: Tensor = x + self.drops[1](self.down(self.gelu(self.up(self.second(x)))))
        return found


class NanoGPT(nn.Module):
    """Tied embeddings, learned positions, blocks, a last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(shape.vocabulary, shape.channels), nn.Embedding(shape.length, shape.channels)
        self.drop = nn.Dropout(0.0)
        self.blocks = nn.ModuleList(NanoBlock(shape.channels, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.channels, bias=False)
        self.head = nn.Linear(shape.channels, shape.vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, T) → (B, T, V)."""
        x = self.drop(self.tokens(inputs) + self.places(torch.arange(inputs.shape[1])))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x))
        return logits


# ----------------------------------------------------------------------------------------------------------------- the sides

Loss = Callable[[], Tensor]


def data(shape: Shape) -> tuple[Tensor, Tensor]:
    """Tokens and targets (B, T)."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, shape.vocabulary, (shape.batch, shape.length + 1), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def ours(kind: str, shape: Shape) -> nn.Module:
    """Our model."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"channels": shape.channels, "heads": shape.heads, "layers": shape.layers, "dropout": 0.0}
    match kind:
        case "gpt":
            context = shape.prompt + shape.length
            return GPT(vocabulary_size=shape.vocabulary, context=context, **sizes, biases=shape.biases, activation=nn.GELU)
        case "bert":
            return Bert(vocabulary_size=shape.vocabulary, context=shape.length, predicts="each", classes=2, **sizes, activation=nn.GELU)
        case _:
            both = {"vocabulary_size": shape.vocabulary, "target_vocabulary_size": shape.vocabulary}
            return Bart(**both, context=shape.prompt + shape.length, **sizes, activation=nn.GELU)


def theirs(kind: str, shape: Shape) -> nn.Module:
    """The same by `transformers`."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    match kind:
        case "gpt":
            config: Any = transformers.GPT2Config(
                vocab_size=shape.vocabulary,
                n_positions=shape.prompt + shape.length,
                n_embd=shape.channels,
                n_layer=shape.layers,
                n_head=shape.heads,
                activation_function="gelu",
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=0,
            )
            config.eos_token_id = None
            return transformers.GPT2LMHeadModel(config)
        case "bert":
            config = transformers.BertConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.channels,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=4 * shape.channels,
                max_position_embeddings=shape.length,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                num_labels=2,
            )
            return transformers.BertForTokenClassification(config)
        case _:
            config = transformers.BartConfig(
                vocab_size=shape.vocabulary,
                max_position_embeddings=shape.prompt + shape.length,
                d_model=shape.channels,
                **{f"{side}_layers": shape.layers for side in ("encoder", "decoder")},
                **{f"{side}_attention_heads": shape.heads for side in ("encoder", "decoder")},
                **{f"{side}_ffn_dim": 4 * shape.channels for side in ("encoder", "decoder")},
                dropout=0.0,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=3,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
            )
            return transformers.BartForConditionalGeneration(config)


def our_loss(kind: str, model: Callable[..., Tensor], shape: Shape) -> Loss:
    """The loss of one batch, with our model."""
    inputs, targets = data(shape)
    lengths = torch.full((shape.batch,), shape.length)
    match kind:
        case "gpt":
            return lambda: F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        case "bert":
            segments = torch.zeros_like(inputs)
            return lambda: F.cross_entropy(model(inputs, lengths, segments).flatten(0, 1), (targets % 2).flatten())
        case _:
            return lambda: F.cross_entropy(model(inputs, lengths, inputs).flatten(0, 1), targets.flatten())


def their_loss(kind: str, model: Callable[..., Any], shape: Shape) -> Loss:
    """The same with theirs, which computes it itself."""
    inputs, targets = data(shape)
    words = torch.ones_like(inputs)
    match kind:
        case "gpt":  # it shifts its labels by itself
            return lambda: F.cross_entropy(model(input_ids=inputs, use_cache=False).logits.flatten(0, 1), targets.flatten())
        case "bert":
            return lambda: model(input_ids=inputs, attention_mask=words, labels=targets % 2).loss
        case _:
            return lambda: model(input_ids=inputs, attention_mask=words, decoder_input_ids=inputs, labels=targets).loss


# ------------------------------------------------------------------------------------------------------------------ measuring


def step(loss: Loss, optimizer: torch.optim.Optimizer | None, parameters: list[nn.Parameter]) -> Callable[[], None]:
    """One training step; without an optimizer both passes alone."""

    def run() -> None:
        loss().backward()  # type: ignore[no-untyped-call]
        if optimizer is not None:
            optimizer.step()
        for parameter in parameters:
            parameter.grad = None

    return run


def in_turns(first: Callable[[], object], second: Callable[[], object], *, repetitions: int) -> tuple[list[float], list[float]]:
    """Processor seconds of both, one after the other, the order changing; the first calls, which may compile, are not counted."""
    times: tuple[list[float], list[float]] = ([], [])
    first(), second(), first(), second()
    for repetition in range(repetitions):
        for place in (0, 1) if repetition % 2 else (1, 0):
            began = time.process_time()
            (first, second)[place]()
            times[place].append(time.process_time() - began)
    return times


def training(title: str, one: nn.Module, loss: Loss, other: nn.Module, their: Loss, *, repetitions: int, passes: bool = True) -> list[Row]:
    """Rows: the step with each side's optimizer, and the passes alone."""
    mine, others = list(one.parameters()), list(other.parameters())
    ours_ = AdamW(learning_rate=1e-5).build(one)
    reference = torch.optim.AdamW(others, lr=1e-5)
    times = in_turns(step(loss, ours_, mine), step(their, reference, others), repetitions=repetitions)
    rows = [ratio(f"{title}, training step", *times, unit="ms", scale=1e3, goal=GOAL)]
    if passes:
        times = in_turns(step(loss, None, mine), step(their, None, others), repetitions=repetitions)
        rows.append(ratio(f"{title}, both passes alone", *times, unit="ms", scale=1e3, goal=GOAL))
    return rows


def writers(kind: str, shape: Shape, beams: int, *, compiled: bool = False) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Greedy or beam generation by both sides: `written` tokens each, whatever they are; each side's step `compiled` for growing caches."""
    model, reference = ours(kind, shape).eval(), theirs(kind, shape).eval()
    if compiled:
        torch._dynamo.config.recompile_limit = 64  # type: ignore[attr-defined]  # a program for each length, where a side's cache needs one
        for side, name in ((model, "step"), (reference, "forward")):
            setattr(side, name, torch.compile(getattr(side, name), dynamic=True))
    prompt = data(shape)[0][:, : shape.prompt]
    lengths = torch.full((shape.batch,), shape.prompt)
    how = {"max_new_tokens": shape.written, "min_new_tokens": shape.written, "do_sample": False, "num_beams": beams, "pad_token_id": 0}
    marks: dict[str, Any] = {"batch": shape.batch, "end": -1, "limit": shape.written}

    def mine() -> Tensor:
        with torch.inference_mode():
            if kind == "gpt":
                assert isinstance(model, GPT)
                logits, state = model.begin(prompt)
                found = [logits.argmax(-1)]
                while len(found) < shape.written:
                    logits, state = model.step(found[-1], state)
                    found.append(logits.argmax(-1))
                return torch.stack(found, dim=1)
            assert isinstance(model, Bart)
            encoded, begin = model.encode(prompt, lengths)
            if beams == 1:
                return greedy(lambda tokens, now: model.step(tokens, now, encoded), begin, start=2, **marks)
            wide, many = encoded.repeated(beams), tuple(part.repeat_interleave(beams, dim=0) for part in begin)
            return beam_search(lambda tokens, now: model.step(tokens, now, wide), many, beams=beams, start=2, **marks)[0]

    def other() -> Tensor:
        given: Tensor = reference.generate(prompt, attention_mask=torch.ones_like(prompt), **how)  # type: ignore[operator]
        return given

    return mine, other


def peak(side: str, kind: str, shape: Shape) -> float:
    """Megabytes that a process has at most while it trains five steps, beyond what it had before the model was made."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.transformers", side, kind, *(str(int(value)) for value in vars(shape).values())],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def _peak_here(side: str, kind: str, shape: Shape) -> float:
    if side == "theirs":
        theirs(kind, Shape(8, 4, 1, 1, 1, 2, 1, 1))  # what importing it takes is not counted
    before = highest_memory()
    model = ours(kind, shape) if side == "ours" else theirs(kind, shape)
    loss = our_loss(kind, model, shape) if side == "ours" else their_loss(kind, model, shape)
    run = step(loss, AdamW(learning_rate=1e-5).build(model), list(model.parameters()))
    for _ in range(5):
        run()
    return (highest_memory() - before) / 1024


def _nano_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())


def measure(*, shapes: tuple[Shape, Shape] = (NANO, SMALL), repetitions: int = 40, compiled: bool = True, memory: bool = True) -> list[Row]:
    """Rows: training steps and generation, with tokens a second and peak memory in their titles and rows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[Row] = []
    try:
        nano, shape = shapes
        inputs, targets = data(nano)
        for biases in (False, True):
            mine, reference = ours("gpt", replace(nano, biases=biases)), NanoGPT(nano)
            title = f"GPT against nanoGPT's model ({nano}), batch {nano.batch} × {nano.length}{', with biases here' * biases}"
            loss = partial(_nano_loss, reference, inputs, targets)
            rows += training(title, mine, our_loss("gpt", mine, nano), reference, loss, repetitions=repetitions)
        for kind in ("gpt", "bert", "bart"):
            mine, reference = ours(kind, shape), theirs(kind, shape)
            title = f"{kind} against transformers ({shape}), batch {shape.batch} × {shape.length}"
            rows += training(
                title,
                mine,
                our_loss(kind, mine, shape),
                reference,
                their_loss(kind, reference, shape),
                repetitions=repetitions,
                passes=False,
            )
            if memory:
                found = [[peak(side, kind, shape)] for side in ("ours", "theirs")]
                rows.append(ratio(f"{kind}, peak memory of five training steps", *found, unit="MB"))
            if compiled and shutil.which("g++"):
                fast, other = torch.compile(mine), torch.compile(reference)
                rows += training(
                    f"{title}, both compiled",
                    mine,
                    our_loss(kind, fast, shape),
                    reference,
                    their_loss(kind, other, shape),
                    repetitions=repetitions,
                    passes=False,
                )
        for kind, beams in (("gpt", 1), ("bart", 1), ("bart", 4)):
            way = "greedy" if beams == 1 else f"{beams} beams"
            title = f"{kind} writes {shape.written} tokens for {shape.batch} texts of {shape.prompt}, {way}"
            for quick in (False, True) if compiled and shutil.which("g++") else (False,):
                times = in_turns(*writers(kind, shape, beams, compiled=quick), repetitions=max(repetitions // 5, 1))
                rows.append(ratio(f"{title}{', both compiled' * quick}", *times, unit="ms", scale=1e3, goal=GOAL))
    finally:
        torch.set_num_threads(threads)
    return rows


if __name__ == "__main__":
    print(_peak_here(sys.argv[1], sys.argv[2], Shape(*(int(value) for value in sys.argv[3:]))))
