from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, doc

from flows.config.words import allowed, one_line, options, shown


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Annotated[int, Ge(1)], "a whole number ≥ 1"),
        (Annotated[float, Gt(0), Le(1)], "a number > 0 and ≤ 1"),
        (Annotated[float, Interval(ge=0, lt=1)], "a number ≥ 0 and < 1"),
        (bool, "true or false"),
        (int | None, "a whole number or null"),
        (Annotated[float, Ge(0)] | None, "a number ≥ 0 or null"),
        (Literal["a", "b"], "a, b"),
        (Sequence[Annotated[int, Ge(1)]], "a list of whole numbers ≥ 1"),
        (Annotated[Sequence[int], Len(3, 3)], "a list of whole numbers at least 3 long and at most 3 long"),
        (list[list[str]], "a list of lists of texts"),
        (tuple[int, float], "a list of 2: a whole number, a number"),
        (tuple[int, ...], "a list of whole numbers"),
        (Mapping[str, int], "a mapping"),
        (Callable[[], int], "a factory (_partial_: true)"),
        (Any, "any plain value"),
        (Annotated[str, doc("a path")], "a path"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert allowed(annotation) == words


def test_values_in_words() -> None:
    assert [shown(value) for value in (None, True, "a", 1.5, [1, "b"])] == ["null", "true", "'a'", "1.5", "[1, 'b']"]
    assert shown("\x1b[31m\n") == r"'\x1b[31m\n'"
    assert len(shown("x" * 1000)) == 58
    assert one_line("two\nlines\x07 here") == "two lines here"


def test_options_are_found_behind_null_and_annotated() -> None:
    assert options(Literal["a", "b"] | None) == ("a", "b")
    assert options(Annotated[Literal[1, 2], "mark"]) == (1, 2)
    assert options(Literal["a", "b"] | Annotated[str, "mark"]) == ("a", "b")
    assert options(int) == ()
