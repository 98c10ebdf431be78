"""Guarantees of `each` for a test."""

import inspect

import pytest

from .each import each

SEEN = []


@each("number", [1, 2])
@each(("letter", "upper"), [("a", "A"), ("b", "B")])
@pytest.mark.parametrize("kind", ["x"])
def test_all_combinations_are_run(kind, letter, upper, number):
    assert (kind, letter.upper()) == ("x", upper)
    SEEN.append((number, letter))


def test_no_combination_was_skipped():
    SEEN.clear()
    test_all_combinations_are_run(kind="x")
    assert SEEN == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    assert list(inspect.signature(test_all_combinations_are_run).parameters) == ["kind"]


def test_the_case_that_fails_is_named_and_ends_the_test():
    seen = []

    @each("number", [1, 2, 3])
    def fails_at_two(number):
        seen.append(number)
        assert number != 2, "two"

    with pytest.raises(AssertionError, match=r"\{'number': 2\}: AssertionError: two"):
        fails_at_two()
    assert seen == [1, 2]


def test_a_test_without_a_case_or_an_argument_is_refused():
    with pytest.raises(ValueError, match="at least one value of number is required"):
        each("number", [])
    with pytest.raises(ValueError, match="must have the arguments letter"):
        each("letter", [1])(lambda number: None)
