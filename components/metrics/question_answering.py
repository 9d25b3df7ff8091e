"""How good an answer is beside those that people gave: SQuAD's exact match and F1 (Rajpurkar et al. 2016).

Both look at answers without capital letters, punctuation (ASCII's), the words a, an and the, and superfluous white space. F1 is that of
the words of both, in any order; of several given answers the best match counts. A question without an answer is answered by nothing (SQuAD
2.0). Where we differ: words of Chinese and Japanese, which have no spaces, are letters.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_LETTERS = re.compile(r"([\u3040-\u30ff\u3400-\u9fff])")


def plain(text: str) -> str:
    """What of an answer is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def words(text: str) -> list[str]:
    """The words of an answer that are compared."""
    return _LETTERS.sub(r" \1 ", plain(text)).split()


def exact_match(said: str, given: Sequence[str]) -> float:
    """1 where `said` is one of the answers given, or nothing where none is given; otherwise 0."""
    return float(any(plain(said) == plain(one) for one in given) if given else not said)


def word_f1(said: str, given: Sequence[str]) -> float:
    """The best F1 of the words of `said` and those of an answer given, 0 … 1."""
    return max(_f1(words(said), words(one)) for one in given) if given else float(not said)


def _f1(said: list[str], given: list[str]) -> float:
    same = sum((Counter(said) & Counter(given)).values())
    return 2 * same / (len(said) + len(given)) if same else 0.0
