"""Telling which of C classes an example belongs to: softmax, cross-entropy, and what there is to say about the answers.

Label smoothing mixes the given class with the uniform distribution over all classes (Szegedy et al. 2016, arXiv:1512.00567,
section 7). It belongs to the loss only: `nll`, in outcomes and metrics, is always the plain −log p of the given class, in nats.

Legend: B examples, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from components.errors import DataError, RunError
from components.metrics.calibration import expected_calibration_error, reliability
from components.metrics.classification import accuracy, confusion_matrix, macro_f1
from components.protocols import Batch, Model, Outcomes, Split

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANSWERS = 3
"""How many classes an answer to a person names."""


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Single-label classification. A batch has `inputs`, which the model maps to logits (B, C), and `targets` (B,) int64 in 0 … C−1.

    Args:
        classes: number of classes C.
        class_names: a name for each class, in order.
        label_smoothing: share of the target that is spread evenly over all classes; 0 leaves the target alone.

    Raises:
        ValueError: the names are not C, or a number is out of range.
    """

    classes: Annotated[int, Ge(1)]
    class_names: Sequence[str]
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0

    def __post_init__(self) -> None:
        if self.classes < 1:
            raise ValueError(f"classes must be at least 1, not {self.classes}")
        if len(self.class_names) != self.classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for {self.classes} classes")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, not {self.label_smoothing}")

    @property
    def monitor(self) -> tuple[str, Literal["max", "min"]]:
        """The best model is the one with the highest accuracy."""
        return "accuracy", "max"

    def logits(self, model: Model, batch: Batch) -> Tensor:
        """(B, C): what the model says of a batch's `inputs`."""
        logits: Tensor = model(batch["inputs"])
        return logits

    def losses(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """`loss`: mean cross-entropy in nats. Pure, so it works under `torch.func` transforms."""
        return {"loss": F.cross_entropy(self.logits(model, batch), batch["targets"], label_smoothing=self.label_smoothing)}

    def outcomes(self, model: Model, batch: Batch) -> Outcomes:
        """What the model says about each example, computed in float64 whatever the model computes in.

        Returns:
            `index` (B,), `target` (B,), `prediction` (B,) (the first of equally probable classes), `probability` (B, C) float64,
            `nll` (B,) float64, `correct` (B,) bool.

        Raises:
            RunError: the model's output is NaN, or +∞, for some example: such an answer has no class.
        """
        with torch.no_grad():
            logits = self.logits(model, batch)
        index, targets = batch["index"].cpu(), batch["targets"].cpu()
        log_probability = F.log_softmax(logits.detach().cpu().double(), dim=1)
        wrong = log_probability.isnan().any(dim=1)
        if bool(wrong.any()):
            raise RunError(
                f"the model's output is not a number for {int(wrong.sum())} of {len(wrong)} examples of a batch"
                f" (the first is example {int(index[wrong][0])}): its weights or that input are not finite"
            )
        prediction = log_probability.argmax(dim=1)
        return {
            "index": index,
            "target": targets,
            "prediction": prediction,
            "probability": log_probability.exp(),
            "nll": F.nll_loss(log_probability, targets, reduction="none"),
            "correct": prediction == targets,
        }

    def answer(self, model: Model, batch: Batch) -> dict[str, Any]:
        """`answers`: the likeliest classes of a batch of one, at most ANSWERS of them, each with `label` and `probability` (0 … 1)."""
        with torch.no_grad():
            probability = F.softmax(self.logits(model, batch).double(), dim=1)[0]
        likeliest = probability.topk(min(ANSWERS, self.classes))
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        return {"answers": [{"label": self.class_names[place], "probability": value} for place, value in pairs]}

    def metrics(self, outcomes: Outcomes) -> dict[str, float]:
        """`accuracy`, `f1` (macro, over the classes that occur), `nll` (nats, lower is better), `calibration_error` (ECE, 15 bins).

        Raises:
            DataError: there are no outcomes.
        """
        _need_examples(outcomes)
        target, prediction = outcomes["target"], outcomes["prediction"]
        return {
            "accuracy": accuracy(target, prediction),
            "f1": macro_f1(confusion_matrix(target, prediction, self.classes)),
            "nll": outcomes["nll"].mean().item(),
            "calibration_error": expected_calibration_error(reliability(_confidence(outcomes), outcomes["correct"])),
        }

    def figures(self, outcomes: Outcomes, split: Split) -> "dict[str, Figure]":
        """`confusion`, `classes` (precision, recall and F1 of each), `calibration`, and `mistakes` where the split has pictures.

        Pictures come from `split.picture(i)`: (H, W), (C, H, W) or (H, W, C) of any numbers; a split without it gets no `mistakes`.

        Raises:
            DataError: there are no outcomes.
        """
        from components.figures.calibration import reliability_diagram
        from components.figures.confusion import class_scores_chart, confusion_figure
        from components.figures.pictures import mistakes
        from components.metrics.classification import class_scores

        _need_examples(outcomes)
        matrix = confusion_matrix(outcomes["target"], outcomes["prediction"], self.classes)
        confidence = _confidence(outcomes)
        bins = reliability(confidence, outcomes["correct"])
        figures = {
            "confusion": confusion_figure(matrix, self.class_names),
            "classes": class_scores_chart(*class_scores(matrix), given=matrix.sum(dim=1), class_names=self.class_names),
            "calibration": reliability_diagram(*bins, error=expected_calibration_error(bins)),
        }
        picture = getattr(split, "picture", None)
        if picture is not None:
            figures["mistakes"] = mistakes(
                picture,
                index=outcomes["index"],
                targets=outcomes["target"],
                predictions=outcomes["prediction"],
                confidence=confidence,
                class_names=self.class_names,
            )
        return figures


def _confidence(outcomes: Outcomes) -> Tensor:
    """(N,) probability of each predicted class."""
    probability: Tensor = outcomes["probability"]
    return probability.amax(dim=1)


def _need_examples(outcomes: Outcomes) -> None:
    if not len(outcomes.get("index", ())):
        raise DataError("there are no examples to measure: the split is empty")
