"""Reading YAML with places: where each key and value stands, and what is no YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.yaml_file import Location, YamlError, YamlFile, parse, read, shown

TEXT = """# a comment
base: &base {size: 3, name: 'x y'}
both:
  <<: *base
  name: "new"
  list:
    - one
    - {deep: off}
    -
      - 7
ümläut: {wïde: 1, next: 2}
"""


@pytest.fixture(scope="module")
def file() -> YamlFile:
    return parse(TEXT, "f.yaml")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ((), "f.yaml:2:1"),
        (("base",), "f.yaml:2:1"),
        (("base", "size"), "f.yaml:2:14"),
        (("both", "name"), "f.yaml:5:3"),
        (("both", "size"), "f.yaml:2:14"),  # where the merged mapping has it
        (("both", "list", 0), "f.yaml:7:7"),
        (("both", "list", 1, "deep"), "f.yaml:8:8"),
        (("both", "list", 2, 0), "f.yaml:10:9"),
        (("ümläut", "next"), "f.yaml:11:19"),  # columns are characters, not bytes
    ],
)
def test_a_key_and_a_list_entry_have_their_place(file: YamlFile, location: Location, place: str) -> None:
    assert file.place(location) == place
    assert file.line(location) == place.rpartition(":")[0]


@pytest.mark.parametrize(
    ("location", "place"),
    [
        (("both", "missing"), "f.yaml:3:1"),
        (("both", "list", 9), "f.yaml:6:3"),
        (("both", "list", "name"), "f.yaml:6:3"),
        (("base", "size", "deeper", 1), "f.yaml:2:14"),
        (("nothing", "at", "all"), "f.yaml:2:1"),
    ],
)
def test_what_is_not_there_has_the_place_of_the_nearest_above_and_no_line(
    file: YamlFile, location: Location, place: str
) -> None:
    assert file.place(location) == place
    assert file.line(location) == ""


def test_an_empty_file_has_one_place() -> None:
    empty = parse("", "f.yaml")

    assert (empty.document, empty.place(("a",)), empty.line(())) == (None, "f.yaml:1:1", "")


@pytest.mark.parametrize(
    ("location", "written"),
    [
        (("base", "size"), "3"),
        (("base", "name"), "'x y'"),
        (("both", "list", 1, "deep"), "off"),
        (("both", "list"), "a list"),
        (("both",), "a mapping"),
        (("both", "missing"), ""),
    ],
)
def test_a_value_is_shown_as_it_is_written(file: YamlFile, location: Location, written: str) -> None:
    assert file.written(location) == written


def test_what_is_shown_is_short_and_on_one_line_and_no_password() -> None:
    assert shown("x" * 100) == repr("x" * 80 + "...")
    assert shown("a\nb") == r"'a\nb'"
    assert shown("http://user:hunter2@h") == "not shown"


def test_the_document_is_what_yaml_says_but_for_keys_which_are_text() -> None:
    text = "a: {1: x, on: off, ~: 2.5, 0x10: [1, null, '2']}\nb: &b {c: 1}\nd: {<<: *b, e: 2}\n"

    assert parse(text, "f").document == {
        "a": {"1": "x", "on": False, "~": 2.5, "0x10": [1, None, "2"]},
        "b": {"c": 1},
        "d": {"c": 1, "e": 2},
    }


def test_what_stands_beside_a_merged_mapping_wins_wherever_it_stands() -> None:
    document = parse("a: &a {x: 1, y: 1}\nb: {x: 2, <<: *a}\nc: {<<: *a, x: 3}\n", "f").document

    assert document == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}, "c": {"x": 3, "y": 1}}


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a: 1\na: 2\n", ["2:1"]),
        ("a: {b: 1, c: 2, b: 3, b: 4}\n", ["1:17", "1:23"]),
        ("- x: 1\n  x: 2\n- x: 1\n", ["2:3"]),
        ("a: 1\n'a': 2\n", ["2:1"]),
        ("a: &m {x: 1, x: 2}\nb: *m\nc: {<<: *m, x: 3}\n", ["1:14"]),
        ("1: x\n1: y\n", ["2:1"]),
    ],
)
def test_all_keys_that_stand_twice_are_noted_each_once(text: str, places: list[str]) -> None:
    faults = parse(text, "f").faults

    assert [f"{fault.place.line}:{fault.place.column}" for fault in faults] == places
    assert all("stands twice, first in line" in fault.words for fault in faults)


def test_of_keys_that_stand_twice_the_last_counts() -> None:
    file = parse("a: 1\na: 2\n", "f")

    assert (file.document, file.written(("a",))) == ({"a": 2}, "2")


@pytest.mark.parametrize("text", ["? [a, b]\n: 1\n", "? {a: b}\n: 1\n"])
def test_a_key_that_is_no_text_is_noted(text: str) -> None:
    (fault,) = parse(text, "f").faults

    assert fault == ((1, 3), "a key must be text")


def test_a_lone_exclamation_mark_is_noted_for_yaml_reads_it_as_empty() -> None:
    (fault,) = parse("headers:\n  X-Old: !\n  X-New: '!'\n  X-None: ''\n", "f").faults

    assert fault == ((2, 10), "a lone ! must be in quotes: '!'")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [\n", "f:2:1: expected the node content, but found '<stream end>'"),
        ("a:\n\tb: 1\n", "f:2:1: found character '\\t' that cannot start any token; a tab can't indent; use blanks"),
        ("a: b: c\n", "f:1:5: mapping values are not allowed here; put a value with a colon and a blank in quotes"),
        ("a: @x\n", "f:1:4: found character '@' that cannot start any token; put the value in quotes"),
        (
            "a: *\n",
            "f:1:5: expected alphabetic or numeric character, but found '\\n'; put a value that begins with * in",
        ),
        ("a: *secret\n", "f:1:4: found undefined alias; put a value that begins with * in quotes"),
        ("a: !secret\n", "f:1:4: could not determine a constructor for the tag; put a value that begins with ! in"),
        ("a:\n  b: 1\n c: 2\n", "f:3:2: expected <block end>, but found '<block mapping start>'; the indentation fits"),
        ("a: 1\n---\nb: 1\n", "f:2:1: expected a single document in the stream, but found another document"),
        ("a: &a [*a]\n", "f:1:4: found unconstructable recursive node"),
        ("a: &a {b: {<<: *a}}\n", "f:1:11: found unconstructable recursive node"),
        ("a: 2001-99-99\n", "f:1:4: is no value that YAML knows; put it in quotes"),
        ("a: !!int x\n", "f:1:4: is no value that YAML knows; put it in quotes"),
        ("<<: 1\n", "f:1:5: expected a mapping or list of mappings for merging, but found scalar"),
        ("a: \x00", "f: unacceptable character #x0000: special characters are not allowed"),
        ("a: \ud83d", "f: is not UTF-8 text"),
        ("[" * 3000, "f: is nested too deeply"),
    ],
    ids=lambda text: ascii(text)[:30],
)
def test_what_is_no_yaml_is_told_with_its_place_and_what_might_help(text: str, told: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse(text, "f")

    assert str(caught.value).startswith(told)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"\xfa\xfe")

    with pytest.raises(YamlError, match=r"missing\.yaml: can't be read"):
        read(tmp_path / "missing.yaml")
    with pytest.raises(YamlError, match=r"latin\.yaml: is not UTF-8 text"):
        read(tmp_path / "latin.yaml")
