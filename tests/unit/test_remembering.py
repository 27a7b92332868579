"""What is remembered of texts that callers choose: short ones, and not too many."""

from __future__ import annotations

import pytest

from common.remembering import LONGEST, MOST_NAMES, Known, Recent, remembered


def test_a_short_text_is_worked_out_once_and_a_long_one_each_time() -> None:
    asked = list[str]()

    @remembered(10)
    def first_sign(text: str, more: int) -> str:
        asked.append(text)
        return text[:1] * more

    short, long = "a" * LONGEST, "b" * (LONGEST + 1)

    assert [first_sign(text, 2) for text in (short, long, short, long)] == ["aa", "bb", "aa", "bb"]
    assert asked == [short, long, long]


def test_the_other_arguments_count_and_the_oldest_is_forgotten() -> None:
    asked = list[tuple[str, int]]()

    @remembered(2)
    def noted(text: str, number: int) -> int:
        asked.append((text, number))
        return number

    for text, number in (("a", 1), ("a", 2), ("a", 1), ("b", 1), ("a", 2)):
        assert noted(text, number) == number

    assert asked == [("a", 1), ("a", 2), ("b", 1), ("a", 2)]


def test_what_was_used_last_is_there_and_never_more_than_is_said() -> None:
    recent = Recent[int, str](10)

    for number in range(100):
        recent.put(number, str(number))
        assert [recent.get(last) for last in range(max(0, number - 4), number + 1)] == [
            str(last) for last in range(max(0, number - 4), number + 1)
        ]
    assert sum(recent.get(number) is not None for number in range(100)) <= 10


def test_what_is_used_stays_whatever_else_comes() -> None:
    recent = Recent[int, str](10)
    recent.put(-1, "kept")

    for number in range(100):
        recent.put(number, "new")
        assert recent.get(-1) == "kept"


def test_what_is_put_again_takes_the_place_of_the_first_and_what_was_dropped_is_gone() -> None:
    recent = Recent[str, int](4)
    for key, value in (("a", 1), ("b", 2), ("c", 3), ("a", 4), ("b", 5)):
        recent.put(key, value)

    recent.drop("a")
    recent.drop("nobody")

    assert [recent.get(key) for key in "abc"] == [None, 5, 3]
    recent.clear()
    assert [recent.get(key) for key in "abc"] == [None, None, None]


def test_names_are_read_once_but_for_long_ones_and_too_many() -> None:
    asked = list[str]()

    def small(name: str) -> str:
        asked.append(name)
        return name.lower()

    known, long = Known(small), "L" * (LONGEST + 1)
    for name in ("Via", "Via", long, long):
        assert known[name] == name.lower()
    for number in range(2 * MOST_NAMES):
        assert known[f"X-{number}"] == f"x-{number}"

    assert asked[:3] == ["Via", long, long]
    assert len(known) <= MOST_NAMES


def test_usual_names_are_known_again_after_a_flood_of_odd_ones() -> None:
    asked = list[str]()

    def small(name: str) -> str:
        asked.append(name)
        return name.lower()

    known = Known(small)
    for number in range(MOST_NAMES + 1):
        assert known[f"X-{number}"] == f"x-{number}"
    asked.clear()

    assert [known["Via"], known["Via"]] == ["via", "via"]
    assert asked == ["Via"]


def test_a_name_that_the_rule_refuses_is_not_remembered() -> None:
    def refuse(name: str) -> str:
        raise ValueError(name)

    known = Known(refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="odd"):
            known["odd"]
    assert len(known) == 0
