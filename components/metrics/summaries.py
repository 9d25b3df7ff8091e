"""How good summaries are: ROUGE (Lin 2004) by Google's rouge-score, with stemming, as papers on summaries report it; and what to beat."""

import re
from collections.abc import Sequence

_SENTENCE = re.compile(r".+?[.!?](?=\s|$)", re.DOTALL)

MEASURES = ("rouge1", "rouge2", "rougeL")


def rouge(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`rouge1`, `rouge2`, `rougeL`: means of the F-measures of single words, pairs, and the longest common subsequence, 0 … 100.

    Raises:
        ValueError: no summaries, or not one for each reference.
    """
    from rouge_score.rouge_scorer import RougeScorer

    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} summaries cannot be measured against {len(references)} references")
    scorer = RougeScorer(MEASURES, use_stemmer=True)
    scores = [scorer.score(reference, hypothesis) for hypothesis, reference in zip(hypotheses, references, strict=True)]
    return {name: 100 * sum(score[name].fmeasure for score in scores) / len(scores) for name in MEASURES}


def lead_sentence(text: str) -> str:
    """The first sentence of a text, as the simplest summary there is; all of it where no sentence ends."""
    found = _SENTENCE.match(text.strip())
    return found.group() if found else text.strip()
