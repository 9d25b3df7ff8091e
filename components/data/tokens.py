"""From text to numbers and back: vocabularies of characters, words, BPE or WordPiece units, trained on a corpus (the `tokenizers` library).

- `character`: every character that was seen.
- `word`: letters and digits that stand together, apostrophes within a word among them, and every other visible character by itself.
- `bpe`: byte-pair encoding (Sennrich et al. 2016) of words with the space before them, so that decoding gives the text back.
- `wordpiece`: BERT's units (Wu et al. 2016): the continuation of a word is marked ##.

The first four numbers are the same in every vocabulary: padding, unknown, start, end. A text that spells one of their names gets the
tokens of its characters, never the mark itself.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from components.errors import DataError

PAD, UNKNOWN, START, END = range(4)
SPECIALS = ("[PAD]", "[UNK]", "[START]", "[END]")

Kind = Literal["character", "word", "bpe", "wordpiece"]

NO_PREFIX = "\uffff"
"""What no token begins with: the WordPiece decoder then only puts spaces between words and none before punctuation."""


class Vocabulary:
    """A trained vocabulary.

    Args:
        tokenizer: what it is made of; `Vocabulary.load` and `TokenSettings.train` make one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer

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

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token numbers up to the first end; padding and start are passed over, an unknown token is �."""
        known: list[int] = []
        parts: list[str] = []
        for number in ids:
            if number == END:
                break
            if number == UNKNOWN:
                parts += [self._text(known), "\ufffd"]
                known = []
            elif number not in (PAD, START):
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
        tokens: what a token is.
        vocabulary_limit: at most this many different tokens, the four marks among them; the most frequent ones.
        seen_at_least: a token that the training split has less often is unknown.
        lowercase: whether capital letters are made small.
        longest: what is longer than this many tokens is cut.
    """

    tokens: Kind = "word"
    vocabulary_limit: Annotated[int, Ge(8), Le(1_000_000)] = 10_000
    seen_at_least: Annotated[int, Ge(1)] = 1
    lowercase: bool = False
    longest: Annotated[int, Ge(1)] = 1000

    def train(self, texts: Iterable[str]) -> Vocabulary:
        """A vocabulary of the tokens of `texts`, which are the training split's and no others."""
        tokenizer, trainer = self._untrained()
        if self.lowercase:
            tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.train_from_iterator(texts, trainer)
        return Vocabulary(tokenizer)

    def _untrained(self) -> tuple[Tokenizer, trainers.Trainer]:
        shared: dict[str, Any] = {
            "vocab_size": self.vocabulary_limit,
            "min_frequency": self.seen_at_least,
            "special_tokens": list(SPECIALS),
            "show_progress": False,
        }
        unknown = SPECIALS[UNKNOWN]
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
