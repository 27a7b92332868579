"""Kept answers in a real Valkey: found, forgotten, never served after a change, and never a reason to fail."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import pytest
import redis
from structlog.testing import capture_logs

from deploy.local.valkey import Valkey
from gateway import shared
from gateway.cache.store import LARGEST_BODY_BYTES, CacheStore, Entry, Found
from tests.support.ports import free_port
from tests.support.processes import wait_until
from tests.unit import parts

ADDRESS = "products /1?"
TIMEOUT_MS = 100
NOTHING = Found(None)


def store_at(url: str) -> CacheStore:
    return CacheStore(shared.client(shared.pool(parts.settings(redis_url=url, redis_timeout_ms=TIMEOUT_MS))))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def store(server: Valkey) -> CacheStore:
    """The cache of one worker, empty."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    return store_at(server.url)


@pytest.fixture
def fragile(tmp_path: Path) -> Generator[Valkey]:
    """A server that a test may kill and freeze."""
    with Valkey(tmp_path, port=free_port()) as server:
        yield server


def entry(body: bytes = b"answer", *, status: int = 200, lifetime_s: int = 60, age_s: float = 0) -> Entry:
    headers = [("Content-Type", "text/plain"), ("Link", "</1>"), ("Link", "</2>"), ("X-Name", "\xe9")]
    return Entry(status, headers, body, time.time() - age_s, lifetime_s)


def keep(
    store: CacheStore, kept: Entry, *, variant: str = "", vary: tuple[str, ...] = (), groups: tuple[str, ...] = ()
) -> bool:
    """Keep an answer as the policy does, with the clock of a look-up before it."""
    clock = store.look_up(ADDRESS).clock
    assert clock is not None
    return store.keep(ADDRESS, variant, kept, vary=vary, groups=groups, clock=clock)


@pytest.mark.parametrize("body", [b"", b"answer", bytes(range(256)), b"\n\x00" * 1000])
@pytest.mark.parametrize("status", [200, 404])
def test_a_kept_answer_is_found_as_it_was(store: CacheStore, body: bytes, status: int) -> None:
    kept = entry(body, status=status)

    assert keep(store, kept)

    assert store.look_up(ADDRESS) == Found(0, (), kept)


def test_what_one_worker_keeps_another_finds(store: CacheStore, server: Valkey) -> None:
    keep(store, kept := entry())

    assert store_at(server.url).look_up(ADDRESS).entry == kept


def test_nothing_is_found_at_another_address_or_for_another_variant(store: CacheStore) -> None:
    keep(store, entry())

    assert store.look_up("products /1?x") == store.look_up("orders /1?") == Found(0)
    assert store.look_up(ADDRESS, "accept:a") == Found(0)


def test_variants_are_found_by_way_of_a_signpost(store: CacheStore) -> None:
    english, german = entry(b"hello"), entry(b"hallo")
    keep(store, english, variant="accept-language:en", vary=("accept-language", "origin"))
    keep(store, german, variant="accept-language:de", vary=("accept-language", "origin"))

    assert store.look_up(ADDRESS) == Found(0, ("accept-language", "origin"))
    assert store.look_up(ADDRESS, "accept-language:en").entry == english
    assert store.look_up(ADDRESS, "accept-language:de").entry == german


def test_an_answer_that_varies_no_longer_replaces_the_signpost(store: CacheStore) -> None:
    keep(store, entry(b"hello"), variant="accept-language:en", vary=("accept-language",))

    keep(store, plain := entry(b"same for all"))

    assert store.look_up(ADDRESS) == Found(0, (), plain)


def test_a_signpost_replaces_an_answer_that_did_not_vary(store: CacheStore) -> None:
    keep(store, entry(b"same for all"))

    keep(store, entry(b"hello"), variant="accept-language:en", vary=("accept-language",))

    assert store.look_up(ADDRESS) == Found(0, ("accept-language",))


def test_a_kept_answer_is_gone_when_its_life_is_over(store: CacheStore, server: Valkey) -> None:
    keep(store, entry(lifetime_s=61, age_s=60))

    wait_until(lambda: store.look_up(ADDRESS).entry is None, "the end of an answer that had a second to live")

    with redis.Redis.from_url(server.url) as client:
        assert client.keys("*entry*") == []


def test_everything_that_is_kept_ends_some_time(store: CacheStore, server: Valkey) -> None:
    keep(store, entry(lifetime_s=60), variant="a:1", vary=("a",), groups=("g",))
    store.invalidate(["x"], ["h"])

    with redis.Redis.from_url(server.url) as client:
        lifetimes = {key: client.ttl(key) for key in client.keys("*[^k]")}  # all but the clock

    assert len(lifetimes) == 4
    assert all(0 < seconds <= 90_000 for seconds in lifetimes.values())


def test_age_counts_from_when_the_service_made_the_answer() -> None:
    kept = entry(lifetime_s=60, age_s=20.5)

    assert (kept.age_s, kept.left_s) == (20, 40)
    assert entry(age_s=-5).age_s == 0


def test_an_address_can_be_forgotten(store: CacheStore) -> None:
    keep(store, entry())

    store.invalidate(["products /2?"], [])
    assert store.look_up(ADDRESS).entry is not None
    store.invalidate([ADDRESS], [])

    assert store.look_up(ADDRESS) == Found(2)


def test_all_variants_of_an_address_are_forgotten(store: CacheStore) -> None:
    keep(store, entry(), variant="a:1", vary=("a",))

    store.invalidate([ADDRESS], [])

    assert store.look_up(ADDRESS) == store.look_up(ADDRESS, "a:1") == Found(1)


@pytest.mark.parametrize("group", ["stock", "product;1, or so", 'a"b\\'])
def test_a_group_can_be_forgotten(store: CacheStore, group: str) -> None:
    keep(store, entry(), groups=("other", group))

    store.invalidate([], ["unrelated"])
    assert store.look_up(ADDRESS).entry is not None
    store.invalidate([], [group])

    assert store.look_up(ADDRESS).entry is None


def test_what_was_forgotten_can_be_kept_anew(store: CacheStore) -> None:
    keep(store, entry(), groups=("stock",))
    store.invalidate([ADDRESS], ["stock"])

    keep(store, kept := entry(b"newer"), groups=("stock",))

    assert store.look_up(ADDRESS).entry == kept


@pytest.mark.parametrize(("addresses", "groups"), [([ADDRESS], []), ([], ["stock"])])
@pytest.mark.parametrize("vary", [(), ("a",)])
def test_an_answer_that_was_on_its_way_during_a_change_is_never_served(
    store: CacheStore, addresses: list[str], groups: list[str], vary: tuple[str, ...]
) -> None:
    variant = "a:1" if vary else ""
    before = store.look_up(ADDRESS)
    assert before.clock is not None

    store.invalidate(addresses, groups)
    store.keep(ADDRESS, variant, entry(), vary=vary, groups=("stock",), clock=before.clock)

    assert store.look_up(ADDRESS, variant).entry is None


def test_an_answer_that_was_on_its_way_while_the_store_was_emptied_is_never_served(
    store: CacheStore, server: Valkey
) -> None:
    for _ in range(5):
        store.invalidate([], ["stock"])
    before = store.look_up(ADDRESS)
    assert before.clock == 5

    with redis.Redis.from_url(server.url) as client:
        client.flushall()  # a restart begins the clock anew, so a later change could look like an earlier one
    store.keep(ADDRESS, "", entry(), vary=(), groups=(), clock=before.clock)

    assert store.look_up(ADDRESS).entry is None


def test_a_large_answer_is_not_kept(store: CacheStore) -> None:
    assert keep(store, entry(b"x" * LARGEST_BODY_BYTES))
    assert not keep(store, entry(b"x" * (LARGEST_BODY_BYTES + 1)))


def test_with_the_store_away_nothing_is_found_or_kept_and_nothing_raised() -> None:
    store = store_at(parts.NOWHERE)

    assert store.look_up(ADDRESS) == NOTHING
    assert not store.keep(ADDRESS, "", entry(), vary=("a",), groups=("g",), clock=0)
    store.invalidate([ADDRESS], ["g"])


def test_the_store_going_away_is_one_warning_and_it_is_used_again_when_it_is_back(fragile: Valkey) -> None:
    store = store_at(fragile.url)
    keep(store, entry())

    fragile.kill()
    with capture_logs() as logs:
        found = [store.look_up(ADDRESS) for _ in range(20)]
        store.invalidate([ADDRESS], [])
    fragile.start()

    assert found == [NOTHING] * 20
    assert [(line["event"], line["log_level"]) for line in logs] == [("cache_bypassed", "warning")]
    wait_until(lambda: store.look_up(ADDRESS) == Found(1), "the store to be used again, with the change", timeout_s=3)
    assert keep(store, entry())


def test_a_frozen_store_costs_one_timeout_and_then_nothing_for_a_while(fragile: Valkey) -> None:
    store = store_at(fragile.url)
    keep(store, entry())

    fragile.freeze()
    began = time.monotonic()
    found = [store.look_up(ADDRESS) for _ in range(50)]
    elapsed_s = time.monotonic() - began
    fragile.thaw()

    assert found == [NOTHING] * 50
    assert elapsed_s < 5 * TIMEOUT_MS / 1000


def test_a_change_is_noted_even_while_nobody_looks_into_the_store(fragile: Valkey) -> None:
    store = store_at(fragile.url)
    keep(store, entry())
    fragile.freeze()
    assert store.look_up(ADDRESS) == NOTHING
    fragile.thaw()

    store.invalidate([ADDRESS], [])

    assert store.look_up(ADDRESS) == NOTHING  # it still rests
    assert store_at(fragile.url).look_up(ADDRESS) == Found(1)


def test_a_change_that_redis_did_not_take_is_told_when_it_is_back(fragile: Valkey) -> None:
    store, other = store_at(fragile.url), store_at(fragile.url)
    keep(store, entry())

    fragile.freeze()
    store.invalidate([ADDRESS], ["g"])
    fragile.thaw()  # with all that it knew
    before = other.look_up(ADDRESS)
    wait_until(lambda: store.look_up(ADDRESS).clock is not None, "the store to be used again", timeout_s=3)

    assert before.entry is not None
    assert store.look_up(ADDRESS).entry is None
    assert other.look_up(ADDRESS).entry is None


def test_what_is_owed_is_paid_without_a_look_up(fragile: Valkey) -> None:
    store, other = store_at(fragile.url), store_at(fragile.url)
    keep(store, entry())
    fragile.freeze()
    store.invalidate([ADDRESS], [])
    fragile.thaw()

    store.settle()

    assert other.look_up(ADDRESS).entry is None
    before = other.look_up(ADDRESS).clock
    store.settle()
    assert other.look_up(ADDRESS).clock == before  # it is paid once


def test_nothing_is_found_while_what_is_owed_is_being_paid(fragile: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    store, pay = store_at(fragile.url), store_at(fragile.url).invalidate
    keep(store, entry())
    fragile.freeze()
    store.invalidate([ADDRESS], [])
    fragile.thaw()
    time.sleep(1.1)  # it rests no longer
    seen = list[Found]()

    def slowly(*_arguments: object) -> None:
        """Another request comes, and changes what is being paid."""
        seen.append(store.look_up(ADDRESS))
        fragile.freeze()
        with monkeypatch.context() as itself:
            itself.setattr(store, "_invalidate", invalidate)
            store.invalidate([ADDRESS], [])
        fragile.thaw()
        pay([ADDRESS], [])

    invalidate = store._invalidate  # pyright: ignore[reportPrivateUsage] - the script that takes its time
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(store, "_invalidate", slowly)
        store.settle()

    assert seen == [NOTHING]
    before = store_at(fragile.url).look_up(ADDRESS).clock
    store.settle()
    assert store_at(fragile.url).look_up(ADDRESS).clock == (before or 0) + 1  # the change that came meanwhile is owed


def test_what_is_owed_is_bounded_and_the_loss_is_told(fragile: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cache.store.MOST_OWED", 2)
    store, other = store_at(fragile.url), store_at(fragile.url)
    kept = {name: f"products /{name}?" for name in ("first", "second", "third")}
    for address in kept.values():
        clock = store.look_up(address).clock
        assert clock is not None
        store.keep(address, "", entry(), vary=(), groups=(), clock=clock)

    fragile.freeze()
    with capture_logs() as logs:
        for address in kept.values():
            store.invalidate([address], [])
    fragile.thaw()
    store.settle()

    assert [line["count"] for line in logs if line["event"] == "cache_invalidations_lost"] == [1]
    assert [other.look_up(address).entry is None for address in kept.values()] == [False, True, True]
