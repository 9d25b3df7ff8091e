"""Translating tensors' names: one rule a tensor, or a group of tensors that differ in a layer's number.

`h.{n}.attn.c_proj.weight ↔ blocks.{n}.attention.output.weight` holds for every n. Where the other side keeps several of ours in one tensor,
one after the other in its last dimension, the rule has several names; where it keeps a matrix the other way round, it is `transposed`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LAYER = "{n}"


@dataclass(frozen=True)
class Rule:
    """One correspondence.

    Attributes:
        theirs: the name in Hugging Face's layout.
        ours: our name, or several whose tensors stand one after the other in theirs.
        transposed: whether their matrix is (in, out).
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False


def same(theirs: str, ours: str, *, parts: Sequence[str] = ("weight", "bias")) -> tuple[Rule, ...]:
    """A layer's weight and bias, the same on both sides but for the name."""
    return tuple(Rule(f"{theirs}.{part}", (f"{ours}.{part}",)) for part in parts)


def to_ours(tensors: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Under our names; what no rule speaks of keeps its own."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        rule, layer = _first(name, rules, theirs=True)
        if rule is None:
            found[name] = tensor
            continue
        pieces = tensor.chunk(len(rule.ours), dim=-1)
        for ours, piece in zip(rule.ours, pieces, strict=True):
            found[ours.replace(LAYER, layer)] = _turned(piece, rule).contiguous()
    return found


def to_theirs(tensors: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """Under their names; what no rule speaks of keeps its own."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        rule, layer = _first(name, rules, theirs=False)
        if rule is None:
            found[name] = tensor
        elif name == rule.ours[0].replace(LAYER, layer):
            pieces = [_turned(tensors[ours.replace(LAYER, layer)], rule) for ours in rule.ours]
            found[rule.theirs.replace(LAYER, layer)] = torch.cat(pieces, dim=-1).contiguous()
    return found


def _turned(tensor: Tensor, rule: Rule) -> Tensor:
    return tensor.T if rule.transposed and tensor.ndim == 2 else tensor


def _first(name: str, rules: Sequence[Rule], *, theirs: bool) -> tuple[Rule | None, str]:
    """The rule that speaks of `name`, and the layer's number in it."""
    for rule, pattern in _patterns(rules, theirs=theirs):
        match = re.fullmatch(pattern, name)
        if match:
            return rule, match.group(1) if match.groups() else ""
    return None, ""


def _patterns(rules: Sequence[Rule], *, theirs: bool) -> Iterator[tuple[Rule, str]]:
    for rule in rules:
        for name in (rule.theirs,) if theirs else rule.ours:
            yield rule, re.escape(name).replace(re.escape(LAYER), r"(\d+)")
