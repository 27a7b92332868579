"""What is remembered of texts that callers choose: short ones, and not too many."""

from __future__ import annotations

from common.remembering import LONGEST, remembered


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
