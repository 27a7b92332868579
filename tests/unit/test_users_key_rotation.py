"""Rotating signing keys: published before it signs, until its last token has expired; withdrawn at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import select

from common import migrations
from common.db import Database
from tests.support.postgres import Unavailable, postgres_server
from user_service.key_rotation import KeyRotation, NextKeyWaits, RotationError, UnknownKey
from user_service.signing_keys import SigningKeys, new_key
from user_service.tables import Base, StoredKey

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
LEAD_S, KEPT_S = 180, 960


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


@pytest.fixture
def keys(database: Database) -> SigningKeys:
    """As another process than the one that rotates knows them; with no memory, for time stands still."""
    return SigningKeys(database, kept_s=KEPT_S, max_age_s=0, cool_down_s=0)


@pytest.fixture
def rotation(database: Database) -> KeyRotation:
    return KeyRotation(database, lead_s=LEAD_S, kept_s=KEPT_S)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def published(keys: SigningKeys) -> list[str]:
    return [key.kid for key in keys.published()]


def test_a_new_key_is_published_before_it_signs_and_the_old_one_until_its_tokens_have_expired(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    old = keys.current().kid
    new = rotation.rotate().kid

    def at(seconds: float) -> tuple[str, list[str]]:
        clock.move_to(NOW + timedelta(seconds=seconds))
        return keys.current().kid, published(keys)

    assert at(0) == (old, [old, new])
    assert at(LEAD_S - 0.1) == (old, [old, new])
    assert at(LEAD_S) == (new, [old, new])
    assert at(LEAD_S + KEPT_S - 0.1) == (new, [old, new])
    assert at(LEAD_S + KEPT_S) == (new, [new])


def test_the_states_are_told_in_words(keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller) -> None:
    keys.current()
    rotation.rotate()
    waiting = [key.state for key in rotation.list()]
    clock.shift(LEAD_S)
    rotated = [key.state for key in rotation.list()]
    clock.shift(KEPT_S)

    assert (waiting, rotated) == (["signing", "next"], ["retired", "signing"])
    assert [key.state for key in rotation.list()] == ["gone", "signing"]


def test_a_process_that_has_lost_the_database_changes_the_key_in_time_all_the_same(
    database: Database, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    keys = SigningKeys(database, kept_s=KEPT_S, max_age_s=0)
    keys.current()
    new = rotation.rotate().kid
    keys.current()

    migrations.downgrade(database, MIGRATIONS, "base")  # no table: each look fails
    clock.shift(LEAD_S)

    assert keys.current().kid == new


def test_tokens_of_a_key_that_is_published_no_longer_do_not_verify(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    old = keys.current().kid
    rotation.rotate()
    clock.shift(LEAD_S)
    retired = keys.find(old)
    clock.shift(KEPT_S)

    assert retired is not None
    assert keys.find(old) is None


def test_there_is_one_next_key_at_a_time(keys: SigningKeys, rotation: KeyRotation) -> None:
    keys.current()
    waiting = rotation.rotate()

    with pytest.raises(NextKeyWaits, match=f"{waiting.kid} is published already and signs from 2026-05-04 12:03:00Z"):
        rotation.rotate()


def test_the_first_key_signs_at_once(keys: SigningKeys, rotation: KeyRotation) -> None:
    made = rotation.rotate()

    assert (made.state, keys.current().kid) == ("signing", made.kid)


def test_a_stolen_key_is_out_of_use_at_once_and_another_signs(keys: SigningKeys, rotation: KeyRotation) -> None:
    stolen = keys.current().kid

    successor = rotation.retire(stolen)

    assert successor is not None
    assert (keys.current().kid, published(keys)) == (successor.kid, [successor.kid])
    assert keys.find(stolen) is None
    assert [key.state for key in rotation.list()] == ["withdrawn", "signing"]


def test_the_key_that_waits_takes_over_from_one_that_is_withdrawn(keys: SigningKeys, rotation: KeyRotation) -> None:
    stolen = keys.current().kid
    waiting = rotation.rotate()

    successor = rotation.retire(stolen)

    assert successor is not None
    assert (successor.kid, keys.current().kid, published(keys)) == (waiting.kid, waiting.kid, [waiting.kid])


def test_a_key_that_does_not_sign_is_withdrawn_without_a_successor(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    old = keys.current().kid
    new = rotation.rotate().kid
    clock.shift(LEAD_S)

    assert rotation.retire(old) is None
    assert (keys.current().kid, published(keys)) == (new, [new])


def test_a_withdrawn_key_never_comes_back(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    first = keys.current().kid
    second = rotation.rotate().kid
    clock.shift(LEAD_S)
    third = rotation.retire(second)
    assert third is not None

    assert keys.current().kid == third.kid  # and not the first, which was retired
    assert published(keys) == [first, third.kid]


@pytest.mark.parametrize("again", [False, True])
def test_what_is_no_key_in_use_can_not_be_withdrawn(keys: SigningKeys, rotation: KeyRotation, again: bool) -> None:
    kid = keys.current().kid
    if again:
        rotation.retire(kid)

    with pytest.raises(UnknownKey):
        rotation.retire(kid if again else "unknown")


def test_keys_that_nobody_needs_are_deleted(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    keys.current()
    rotation.rotate()
    clock.shift(LEAD_S + KEPT_S - 1)
    too_early = rotation.sweep()
    clock.shift(1)
    retired = rotation.sweep()
    rotation.retire(keys.current().kid)
    clock.shift(KEPT_S + 1)

    assert (too_early, retired, rotation.sweep()) == (0, 1, 1)
    assert [key.state for key in rotation.list()] == ["signing"]


def test_a_number_is_never_given_twice_in_a_row(keys: SigningKeys, rotation: KeyRotation) -> None:
    keys.current()
    rotation.rotate()
    rotation.retire(keys.current().kid)

    assert rotation.rotate().state == "next"


def test_a_key_that_is_old_enough_is_followed_by_a_new_one_by_itself(
    keys: SigningKeys, rotation: KeyRotation, clock: time_machine.Traveller
) -> None:
    without_keys = rotation.rotate_when_older(30)
    old = keys.current().kid
    clock.shift(timedelta(days=30, seconds=-LEAD_S - 1))
    too_early = rotation.rotate_when_older(30)
    clock.shift(1)
    due = rotation.rotate_when_older(30)
    again = rotation.rotate_when_older(30)
    clock.shift(LEAD_S)

    assert (without_keys, too_early, due, again) == (1, 0, 1, 0)
    assert keys.current().kid != old  # it has signed for 30 days, to the second
    assert rotation.rotate_when_older(30) == 0


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/any.db"
        if request.param == "postgresql":
            try:
                url = stack.enter_context(postgres_server()).create_database("keys")
            except Unavailable as reason:
                pytest.skip(str(reason))
        database = Database(url, pool_size=10)
        stack.callback(database.dispose)
        Base.metadata.create_all(database.engine)
        yield database


def outcome(rotation: KeyRotation) -> str:
    try:
        return rotation.rotate().state
    except RotationError as error:
        return type(error).__name__


def test_many_who_rotate_at_once_make_one_key(any_database: Database) -> None:
    SigningKeys(any_database).current()
    rotation = KeyRotation(any_database, lead_s=LEAD_S, kept_s=KEPT_S)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(outcome, [rotation] * 8))

    assert sorted(outcomes) == ["NextKeyWaits"] * 7 + ["next"]


def test_who_waits_for_another_rotation_sees_its_key(any_database: Database) -> None:
    SigningKeys(any_database).current()
    rotation = KeyRotation(any_database, lead_s=LEAD_S, kept_s=KEPT_S)

    with ThreadPoolExecutor(1) as pool:
        with any_database.write() as session:
            session.scalars(select(StoredKey).with_for_update()).all()
            session.add(new_key(2, signs_from=NOW + timedelta(seconds=LEAD_S)))
            session.flush()
            waiting = pool.submit(outcome, rotation)
            wait([waiting], timeout=0.3)  # it has come to the rows, and can't go on

        assert waiting.result() == "NextKeyWaits"
