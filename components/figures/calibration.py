"""The reliability diagram (Guo et al. 2017, figure 1): is a prediction made with 80 % confidence right in 80 % of cases?"""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from components.figures import style


def reliability_diagram(counts: Tensor, confidence: Tensor, accuracy: Tensor, *, error: float) -> Figure:
    """Accuracy by confidence above, the number of examples by confidence below.

    Args:
        counts, confidence, accuracy: (M,) of M bins of equal width over 0 … 1, as `components.metrics.calibration.reliability` gives
            them (NaN in empty bins).
        error: expected calibration error, 0 … 1.
    """
    bins = len(counts)
    middles = (np.arange(bins) + 0.5) / bins
    filled = (counts > 0).numpy()
    sure, right, weight = confidence.numpy()[filled], accuracy.numpy()[filled], counts.numpy()[filled]
    figure = style.new_figure(6.5)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.bar(middles[filled], right, width=0.92 / bins, color="#b7d6ea", label="accuracy")
    upper.plot([0, 1], [0, 1], color=style.GREY, linestyle="--", linewidth=1.2, label="as sure as right")
    upper.vlines(sure, np.minimum(sure, right), np.maximum(sure, right), color=style.VERMILION, linewidth=2)
    upper.plot(sure, right, linestyle="none", marker="o", ms=5, color=style.VERMILION, clip_on=False, label="gap to the mean confidence")
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, 1)
    style.dress(upper, y="accuracy (share right)", grid="y")
    style.legend_below(figure)
    lower.bar(middles, counts.numpy(), width=0.92 / bins, color=style.BLUE)
    style.dress(lower, x="confidence (probability of the predicted class)", y="examples", grid="y")
    lower.ticklabel_format(axis="y", style="plain", useOffset=False)
    lower.locator_params(axis="y", nbins=3, integer=True)
    mean_confidence, mean_accuracy = np.average(sure, weights=weight), np.average(right, weights=weight)
    style.headline(
        figure,
        f"Calibration error {style.percent(error)}: {_verdict(float(mean_confidence - mean_accuracy))}",
        f"{int(weight.sum()):,} examples; mean confidence {style.percent(mean_confidence)}, accuracy {style.percent(mean_accuracy)}",
    )
    return style.finish(figure)


def _verdict(excess: float) -> str:
    if abs(excess) < 0.005:
        return "on average as sure as it is right"
    return "surer than it is right" if excess > 0 else "less sure than it could be"
