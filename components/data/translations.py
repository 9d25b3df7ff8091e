"""The data sets of pairs: captions of photographs in three languages, dates in any locale, catalogues of programs, a user's own table."""

import gettext
import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import babel
from annotated_types import Ge, Gt, Le, Lt
from babel.core import UnknownLocaleError
from babel.dates import format_date

from components.data.faults import FaultList
from components.data.packages import Package
from components.data.parallel_text import Pair, ParallelText
from components.data.sources import Source
from components.data.users_file import UsersFile
from components.data.written import read_text
from components.protocols import Fetch

# ---------------------------------------------------------------------------------------------------------------- Multi30k

Language = Literal["en", "de", "fr"]
TestSet = Literal["test_2016_flickr", "test_2017_flickr", "test_2018_flickr", "test_2017_mscoco"]

_MULTI30K = {
    "train.de": "2c2b73fd2b548fbcde3a875e0a78d6ee94d498bfdee6bd3eae3945779e9ddf72",
    "train.en": "460a15fbd157e34a7a9957ee388c1ca247fe47af3ef25fb50442af6c274e0fc6",
    "train.fr": "5925a3c18f1587b6b54b87743106e6e8ab93618edb6f65d19eac0621f853a10d",
    "val.de": "660e09eb7e1da2f856ea13ee5ad3cf6d36b3d5b0b733c857e94c5747a3dfc660",
    "val.en": "1f2a23d992769b5b3d209b0a10dd0b77c08cceb1f20dfb97ed0aafa49d107227",
    "val.fr": "5304e444d842e962b2dda4d816b70b22a1765b15401642b7ca37a67477e708dc",
    "test_2016_flickr.de": "4be6b5b3236b79c25475c6bb829800a7ce559e9ba7a1f6c2394fe4d40be46d16",
    "test_2016_flickr.en": "399a4382932c1aadd3ceb9bef1008d388a64c76d4ae4e9d4728c6f4301cac182",
    "test_2016_flickr.fr": "cb3160d69b002bb638e66cc7612fcd56cb0af82eadc9c142dedc438afb885ef6",
    "test_2017_flickr.de": "c3078bc3b36808bf9d20eb2347ed6137016179ef59ec0d2b9b8ecc3fb2880081",
    "test_2017_flickr.en": "ce1450ddc5ab0834502579d77a170849952e15a2938b34cc503bdc25ebb4fb98",
    "test_2017_flickr.fr": "6f3764e31dac41e9455e612958bcfd4e877c5e15cd66df2c2b2be6d9bd83e5b6",
    "test_2018_flickr.de": "39fcc8b3331d76fb42d648d019c6898b0d5e58baac87bc2a0bb93f44ec8db207",
    "test_2018_flickr.en": "4e585c2dd525911a6ea7730e9d0b516239af3f1b1ffae6a2130223cfb639f25e",
    "test_2018_flickr.fr": "234b4a887da0da4801a3e2c6f21336231ff7dd46daeb80cfa1b551c8bbb78239",
    "test_2017_mscoco.de": "58277df3c75f92f7145a11b910b553d1cf82c439249d4dc237c899609eafac22",
    "test_2017_mscoco.en": "43051fdfa86fd5395182e718a94ca67b1b227b9f7c79596ff0f6b813216981d2",
    "test_2017_mscoco.fr": "39cde3f43f32b0a6bf29ce4917a46329ff32e53070c2fac87506695a740ae0a0",
}
"""SHA-256 of each file, uncompressed."""


def _multi30k(name: str) -> Source:
    return Source(
        name=f"multi30k-{name}",
        sha256=_MULTI30K[name],
        mirror=f"multi30k/{name}.gz",
        url=f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{name}.gz",
    )


@dataclass(frozen=True, kw_only=True)
class Multi30k(ParallelText):
    """Captions of 31,014 photographs, translated by people (Elliott et al. 2016, task 1): 29,000 to train on, 1,014 to validate.

    Attributes:
        source: language to translate from.
        target: language to translate to.
        test: which of the four test sets; `test_2016_flickr` is the one that papers report.
    """

    source: Language = "de"
    target: Language = "en"
    test: TestSet = "test_2016_flickr"

    name: ClassVar[str] = "multi30k"

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source}")

    def recipe(self) -> dict[str, Any]:
        """The sources' hashes and every setting."""
        return {
            "name": self.name,
            "format": 1,
            "sources": [source.sha256 for pair in self._sources().values() for source in pair],
        } | asdict(self)

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        sides = {name: [read_text(fetch(source)).splitlines() for source in pair] for name, pair in self._sources().items()}
        return {
            "source": f"Multi30k task 1, {self.source} to {self.target}, {self.test}",
            "upstream": "https://github.com/multi30k/dataset",
            "licence": "research and education, non-commercial",
            **self.write(into, {name: [(a.strip(), b.strip()) for a, b in zip(*lines, strict=True)] for name, lines in sides.items()}),
        }

    def _sources(self) -> dict[str, list[Source]]:
        files = {"train": "train", "validation": "val", "test": self.test}
        return {name: [_multi30k(f"{file}.{language}") for language in (self.source, self.target)] for name, file in files.items()}


# ----------------------------------------------------------------------------------------------------------- localized dates

FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2099, 12, 31)

Form = Literal["full", "long", "medium", "short"]


@dataclass(frozen=True, kw_only=True)
class LocalizedDates(ParallelText):
    """A date as one locale writes it, to be written as another does, or in ISO form: made by rule from the CLDR (Babel), never downloaded.

    Every day is in one split only, and which characters of the source decide a character of the target is known exactly.

    Attributes:
        source: locale to read, such as en, de, ko.
        target: locale to write, or iso (2026-11-22).
        form: how a date is written: full has the day of the week.
        examples: different days between 1900 and 2099.
        validation: how many to validate on.
        test: how many to test on; the others train.
    """

    source: str = "en"
    target: str = "iso"
    form: Form = "full"
    examples: Annotated[int, Ge(100), Le(73_049)] = 12_000
    validation: Annotated[int, Ge(10)] = 1000
    test: Annotated[int, Ge(10)] = 1000

    name: ClassVar[str] = "localized_dates"

    def __post_init__(self) -> None:
        for locale in (self.source, self.target):
            written(FIRST_DAY, locale, self.form)
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source}")

    def recipe(self) -> dict[str, Any]:
        """Every setting, and the version of Babel, which is the source."""
        return {"name": self.name, "format": 1, "sources": [f"babel {babel.__version__}"], **asdict(self)}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — it is made by an installed library
        """Write the prepared file; the data card."""
        days = [FIRST_DAY + timedelta(days=place) for place in range((LAST_DAY - FIRST_DAY).days + 1)]
        days.sort(key=lambda day: hashlib.sha256(f"{self.split_seed}:{day.isoformat()}".encode()).digest())
        pairs = [(written(day, self.source, self.form), written(day, self.target, self.form)) for day in days[: self.examples]]
        return {
            "source": f"CLDR dates of Babel {babel.__version__}",
            "licence": "Unicode licence (CLDR)",
            **self.write(into, self.divide(pairs, validation=self.validation, test=self.test)),
        }


def written(day: date, locale: str, form: Form) -> str:
    """`day` as a locale writes it, or in ISO form; with plain spaces, which some locales have as no-break ones.

    Raises:
        ValueError: there is no such locale.
    """
    if locale == "iso":
        return day.isoformat()
    try:
        return " ".join(format_date(day, format=form, locale=locale).split())
    except (UnknownLocaleError, ValueError) as error:
        raise ValueError(f"{locale!r} is no locale that Babel knows (such as en, de_CH, ko), nor iso") from error


# ---------------------------------------------------------------------------------------------------------------- catalogues


def _catalogue(locale: str, domain: str, sha256: str, package: str) -> Source:
    short = locale.replace("_", "-")
    return Source(
        name=f"{locale}-{domain}.mo",
        sha256=sha256,
        mirror=f"catalogues/{locale}/{domain}.mo",
        package=Package(
            requirement=f"jupyterlab-language-pack-{short}==4.5.post3",
            sha256=package,
            member=f"jupyterlab_language_pack_{locale}/locale/{locale}/LC_MESSAGES/{domain}.mo",
        ),
    )


_FR, _KO, _DE = (
    "9f6ce9d4e64b367ff084a2313af29d6ad8a02d1d08000f3e6c53e2856fa9a11f",
    "a7ca15848e6fc47ecf35e83a791e2ae9dd26bbfdbc8503567593f908f86c51f4",
    "b716b56f7e0c884f42152d5e36c253ea0f32ca41f99097d842d3934f4a4bc7fb",
)
CATALOGUES: dict[str, tuple[Source, ...]] = {
    "fr": (
        _catalogue("fr_FR", "jupyterlab", "6dac9c31fb712d07e53835165a8c3e5de767d955191eae8fa5647469b489f852", _FR),
        _catalogue("fr_FR", "jupyterlab_git", "907317987341c70aa99486bd3f71edc65ec06690f5cf0e653b7f400dabb452e2", _FR),
        _catalogue("fr_FR", "jupyterlab_lsp", "66c04fb7864cbfa1680431cae2bdbad1b0aeb92b7d97680f1264f78143c56557", _FR),
        _catalogue("fr_FR", "jupyterlab_tour", "dd22dc7eed1335fd31c80af40b85ab515e2a8f16fb9a32bac951e450e215f165", _FR),
        _catalogue("fr_FR", "notebook", "a766f77fa026315834284016eb3406fe5810e5ec94d45310e98f551ba574d354", _FR),
    ),
    "ko": (
        _catalogue("ko_KR", "jupyterlab", "ec0401e427212d05682954ab8e511c27c733fdb16168e827dbe5743650d9480d", _KO),
        _catalogue("ko_KR", "jupyterlab_git", "9bb6f01a18e74dca314863a5dd78ca96de194d54b17175591511e9e46d641ad7", _KO),
        _catalogue("ko_KR", "jupyterlab_lsp", "1aac52e7c821de57ee18cc728c8babc7f1de8a959f44af838cf79974649382a2", _KO),
        _catalogue("ko_KR", "jupyterlab_tour", "ed9c8aeb2e395714e676f02fc8c3ead84062eae787b58a52c6d1f135c797a77f", _KO),
        _catalogue("ko_KR", "notebook", "0e9d997ca576a43ffc867b6a03ee3dd4a852411f9ca64d18f8114bdbc05befc6", _KO),
    ),
    "de": (
        _catalogue("de_DE", "jupyterlab", "ebcd1c3791fec94b0cf2cee4a3f5aa3f3032547dc1ad9501ac6173156a7d197a", _DE),
        _catalogue("de_DE", "jupyterlab_git", "37d9ea115e2e806fd5990220170931e9019bb651f20e83816686763db3ad413e", _DE),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Catalogues(ParallelText):
    """What JupyterLab and its extensions say, in English and in the words of its translators: gettext catalogues of its language packs.

    Attributes:
        target: language to translate to; from English.
        fewest_words: an English text of fewer words is left out.
        validation: how many pairs to validate on.
        test: how many to test on; the others train.
    """

    target: Literal["fr", "ko", "de"] = "fr"
    fewest_words: Annotated[int, Ge(1)] = 1
    validation: Annotated[int, Ge(10)] = 100
    test: Annotated[int, Ge(10)] = 200

    name: ClassVar[str] = "catalogues"

    def recipe(self) -> dict[str, Any]:
        """The sources' hashes and every setting."""
        return {"name": self.name, "format": 1, "sources": [source.sha256 for source in CATALOGUES[self.target]], **asdict(self)}

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:
        """Write the prepared file; the data card."""
        pairs: list[Pair] = []
        for source in CATALOGUES[self.target]:
            with fetch(source).open("rb") as file:
                pairs += catalogue_pairs(gettext.GNUTranslations(file))
        used = [pair for pair in pairs if len(pair[0].split()) >= self.fewest_words]
        return {
            "source": f"language pack of JupyterLab 4.5, English to {self.target}",
            "upstream": "https://github.com/jupyterlab/language-packs",
            "licence": "BSD-3-Clause",
            **self.write(into, self.divide(used, validation=self.validation, test=self.test)),
        }


def catalogue_pairs(catalogue: gettext.NullTranslations) -> list[Pair]:
    """(message, translation) of every singular message that is translated, white space as single spaces, sorted."""
    messages: dict[Any, str] = getattr(catalogue, "_catalog", {})
    found = set()
    for message, translation in messages.items():
        if isinstance(message, str) and message:
            text = message.rpartition("\x04")[2]  # behind the context, which is for the translator
            pair = " ".join(text.split()), " ".join(translation.split())
            if pair[0] and pair[1] and pair[0] != pair[1]:
                found.add(pair)
    return sorted(found)


# ------------------------------------------------------------------------------------------------------------- a user's own


@dataclass(frozen=True, kw_only=True)
class ParallelTsv(ParallelText, UsersFile):
    """A user's own pairs: a UTF-8 file, a pair a line, source and target separated by a tab.

    Attributes:
        path: the file.
        validation: share of the pairs to validate on.
        test: share of the pairs to test on; the others train.
    """

    validation: Annotated[float, Gt(0), Lt(1)] = 0.1
    test: Annotated[float, Gt(0), Lt(1)] = 0.1

    name: ClassVar[str] = "parallel_tsv"

    def __post_init__(self) -> None:
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} and test {self.test} leave nothing to train on")

    def prepare(self, fetch: Fetch, into: Path) -> dict[str, Any]:  # noqa: ARG002 — the file is here already
        """Write the prepared file; the data card. DataError names the lines that are no pairs."""
        path = Path(self.path).expanduser()
        pairs = tab_separated(read_text(path).splitlines(), path)
        sizes = [max(round(share * len(pairs)), 1) for share in (self.validation, self.test)]
        divided = self.divide(pairs, validation=sizes[0], test=sizes[1])
        return {"source": path.name, "licence": "the user's own", **self.write(into, divided)}


def tab_separated(lines: Sequence[str], path: Path) -> list[Pair]:
    """The pairs of a file's lines; empty lines are passed over.

    Raises:
        DataError: lines are no pairs.
    """
    pairs, faults = [], FaultList(path)
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in line.split("\t")]
        if not line.strip():
            continue
        if len(parts) != 2 or not all(parts):
            faults.add(f"line {number} is not source, tab, target ({len(parts)} columns)")
        else:
            pairs.append((parts[0], parts[1]))
    faults.check()
    return pairs
