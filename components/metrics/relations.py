"""How well relations with a direction are told, as the scorer of SemEval-2010 task 8 defines it (Hendrickx et al. 2010)."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

_DIRECTED = re.compile(r"(.+)\((e1,e2|e2,e1)\)")


def relation_f1(matrix: Tensor, names: Sequence[str], *, other: str = "Other") -> float:
    """Mean F1 of the relations, 0 … 1; both directions of one are one relation, but only the right direction is a hit.

        precision = told with the right direction / told in either direction
        recall    = told with the right direction / given in either direction

    `other`, which is no relation, is left out of the mean, but what is wrongly told in its place, or it in the place of another, counts. A
    relation that is neither given nor told is left out, too; the task's scorer, which knows its nine, would count it as 0.

    Args:
        matrix: (C, C) counts; row: relation given, column: relation told.
        names: C names; one with a direction ends in (e1,e2) or (e2,e1).
        other: the name of what is no relation; where no name is this, every class counts.

    Raises:
        ValueError: there is no relation to score.
    """
    groups: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        if name != other:
            found = _DIRECTED.fullmatch(name)
            groups.setdefault(found[1] if found else name, []).append(number)
    scores = []
    for members in groups.values():
        hits = matrix[members, members].sum().item()
        given, told = matrix[members].sum().item(), matrix[:, members].sum().item()
        if given + told:
            scores.append(2 * hits / (given + told))
    if not scores:
        raise ValueError("there is no relation to score")
    return float(torch.tensor(scores, dtype=torch.float64).mean())
