"""The text of an API key: how one is told from anything else without asking a database."""

from __future__ import annotations

import re

import pytest

from common import key_format

KEY = "gk_qxjxwair_TCRDUkOnlpuPOa2i9me8B_XAPvWvbrKdUi0p5VMzgKU_A--T0g"


def test_new_keys_are_well_formed_and_differ() -> None:
    keys = {key_format.new_key() for _ in range(200)}

    assert len(keys) == 200
    assert all(key_format.is_well_formed(key) for key in keys)
    assert all(re.fullmatch(r"gk_[a-z0-9]{8}_[\w-]{43}_[\w-]{6}", key) for key in keys)


@pytest.mark.parametrize("place", range(len(KEY)))
def test_a_key_with_one_wrong_character_is_none(place: int) -> None:
    other = "A" if KEY[place] != "A" else "B"

    assert not key_format.is_well_formed(KEY[:place] + other + KEY[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", "gk_", KEY[:-1], KEY + "A", f" {KEY}", f"{KEY}\n", KEY.upper(), "\u0661" * 62, KEY[3:], "x" * 10_000]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    assert not key_format.is_well_formed(text)


def test_what_may_be_shown_tells_keys_apart_and_nothing_else() -> None:
    assert KEY.startswith(key_format.beginning(KEY))
    assert len(key_format.beginning(KEY)) == 11


def test_a_digest_is_a_hash_of_all_of_the_key() -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", key_format.digest(KEY))
    assert key_format.digest(KEY) != key_format.digest(key_format.new_key())
