"""JWK sets that several workers share: who fetches, and what the others do meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Generator

import pytest

from common.keys import MAX_SET_BYTES, InvalidToken, JwkSetKeys
from common.noticeboard import Noticeboard
from tests.support import tokens
from tests.support.stub import StubService
from tests.support.tokens import KeyPair

JWKS = "/jwks.json"
OLD, NEW = KeyPair.generate("old"), KeyPair.generate("new")


@pytest.fixture
def stub() -> Generator[StubService]:
    with StubService() as stub:
        stub.json[JWKS] = tokens.jwks(OLD)
        yield stub


def in_workers(count: int, keys: JwkSetKeys, kid: str, *, times: int = 1) -> list[bool]:
    """Whether each of the forked workers found the key, all of them looking at once, `times` one after another."""
    begin_at = time.monotonic() + 0.2
    children: list[int] = []
    for _ in range(count):
        if (child := os.fork()) == 0:
            code = 2
            try:
                time.sleep(max(0.0, begin_at - time.monotonic()))
                code = 0 if all(_finds(keys, kid) for _ in range(times)) else 1
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(codes) <= {0, 1}
    return [code == 0 for code in codes]


def _finds(keys: JwkSetKeys, kid: str) -> bool:
    try:
        return bool(keys.find(kid))
    except InvalidToken:
        return False


def test_workers_that_meet_a_new_key_make_one_fetch_and_all_find_it(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=60)
    keys.refresh()
    stub.json[JWKS] = tokens.jwks(OLD, NEW)

    found = in_workers(4, keys, "new")

    assert found == [True] * 4
    assert len(stub.requests) == 2


def test_an_unknown_key_costs_all_workers_one_fetch_in_a_cool_down(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=60)
    keys.refresh()

    found = in_workers(4, keys, "nobody's", times=20)

    assert found == [False] * 4
    assert len(stub.requests) == 2


def test_what_a_fetch_did_not_find_is_not_looked_for_again_for_a_while(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=0, unknown_for_s=0.2)
    keys.find("old")
    for _ in range(10):
        with pytest.raises(InvalidToken):
            keys.find("nobody's")
    assert len(stub.requests) == 2

    time.sleep(0.2)
    with pytest.raises(InvalidToken):
        keys.find("nobody's")
    assert len(stub.requests) == 3


def test_of_many_unknown_keys_the_latest_are_remembered(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=0, max_unknown=3)
    for kid, fetches in (("a", 1), ("b", 2), ("c", 3), ("d", 4), ("d", 4), ("b", 4), ("a", 5)):
        with pytest.raises(InvalidToken):
            keys.find(kid)
        assert len(stub.requests) == fetches


def test_a_set_that_is_too_large_is_none(stub: StubService) -> None:
    stub.json[JWKS] = {**tokens.jwks(OLD), "more": "x" * MAX_SET_BYTES}

    assert not JwkSetKeys(f"{stub.url}{JWKS}").warm()


def test_what_was_not_found_is_found_once_a_refresh_brings_it(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=0)
    with pytest.raises(InvalidToken):
        keys.find("new")
    stub.json[JWKS] = tokens.jwks(OLD, NEW)

    keys.refresh(0)

    assert keys.find("new") == NEW.private.public_key()


def test_a_refresh_fetches_by_age_and_once_for_all(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}")
    for _ in range(5):
        keys.refresh(60)
    assert len(stub.requests) == 1

    keys.refresh(0)
    assert len(stub.requests) == 2


def test_a_refresh_just_before_does_not_keep_a_new_key_from_being_found(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=60)
    keys.refresh()
    stub.json[JWKS] = tokens.jwks(OLD, NEW)

    assert keys.find("new") == NEW.private.public_key()


def test_refreshing_goes_on_until_it_is_not_wanted(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}")
    naps: list[float] = []

    keys.keep_fresh(lambda: len(naps) < 3, sleep=naps.append)

    assert len(naps) == 3
    assert keys.find("old") == OLD.private.public_key()
    assert len(stub.requests) == 1


def test_whoever_remembers_tokens_hears_when_a_key_goes_or_changes_and_only_then(stub: StubService) -> None:
    keys = JwkSetKeys(f"{stub.url}{JWKS}", cool_down_s=0)
    heard: list[int] = []
    keys.when_keys_go = lambda: heard.append(len(stub.requests))
    for published in ((OLD,), (OLD,), (OLD, NEW), (NEW,), (KeyPair.generate("new"),)):
        stub.json[JWKS] = tokens.jwks(*published)
        keys.refresh(0)

    assert heard == [4, 5]


@pytest.mark.parametrize("path", ["/bytes/300000", "/trickle/0.05"])
def test_too_much_or_too_slow_is_no_set(stub: StubService, path: str) -> None:
    keys = JwkSetKeys(f"{stub.url}{path}", timeout_s=0.2)

    began = time.monotonic()

    assert not keys.warm()
    assert time.monotonic() - began < 2


def test_a_worker_that_died_while_it_fetched_does_not_keep_the_others_from_it() -> None:
    now = [1000.0]
    board = Noticeboard(clock=lambda: now[0])
    assert board.may_fetch(5, 3)  # and never says that it is over
    now[0] += 2.9
    assert (board.is_busy(3), board.may_fetch(0, 3)) == (True, False)
    now[0] += 0.2
    assert (board.is_busy(3), board.may_fetch(5, 3)) == (False, False)

    now[0] += 2

    assert board.may_fetch(5, 3)


def test_a_failed_fetch_leaves_the_document_and_a_good_one_is_news_once() -> None:
    board = Noticeboard()
    board.fetched(b"first")
    board.fetched(None)
    notice = board.news(0)
    assert notice is not None
    assert notice.document == b"first"
    assert board.news(notice.version) is None

    board.fetched(b"2")

    assert board.news(notice.version) == (2, b"2")


def test_a_board_leaves_no_file_open() -> None:
    before = len(os.listdir("/proc/self/fd"))

    board = Noticeboard()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del board

    assert len(os.listdir("/proc/self/fd")) == before
