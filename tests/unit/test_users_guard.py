"""The guard: when attempts have to wait, whose, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy import select

from common import migrations
from common.db import Database
from user_service.guard import Guard, TooManyFailures, network_of
from user_service.tables import LoginFailures
from user_service.users import SecondFactorRequired, WrongCredentials

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def guard(database: Database, clock: time_machine.Traveller) -> Guard:
    return Guard(database, SECRET)


def fail(guard: Guard, name: str = "ada", address: str = HOME, times: int = 1) -> list[int]:
    """How long each of so many failures would have had to wait; 0 for those that were looked at."""
    waits: list[int] = []
    for _ in range(times):
        try:
            with guard.attempt(name, address):
                raise WrongCredentials
        except WrongCredentials:
            waits.append(0)
        except TooManyFailures as refusal:
            waits.append(refusal.retry_after_s)
    return waits


def succeed(guard: Guard, name: str = "ada", address: str = HOME) -> None:
    with guard.attempt(name, address):
        pass


def is_blocked(guard: Guard, name: str = "ada", address: str = HOME) -> bool:
    try:
        with guard.attempt(name, address):
            raise SecondFactorRequired  # which is neither
    except SecondFactorRequired:
        return False
    except TooManyFailures:
        return True


def test_five_failures_are_free_and_then_one_waits(guard: Guard) -> None:
    assert fail(guard, times=6) == [0, 0, 0, 0, 0, 1]


def test_each_further_failure_doubles_the_wait_up_to_a_quarter_of_an_hour(
    guard: Guard, clock: time_machine.Traveller
) -> None:
    fail(guard, times=5)

    waits: list[int] = []
    for _ in range(20):
        waits += fail(guard)
        clock.shift(waits[-1])
        assert fail(guard) == [0]  # looked at, and wrong

    assert waits[:10] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert set(waits[-5:]) == {900}  # which lets 96 guesses a day pass


def test_the_right_password_waits_too(guard: Guard, clock: time_machine.Traveller) -> None:
    fail(guard, times=5)
    looked: list[bool] = []

    with pytest.raises(TooManyFailures, match="try again in 1 s"), guard.attempt("ada", HOME):
        looked.append(True)
    clock.shift(1)
    succeed(guard)

    assert looked == []


def test_refused_attempts_do_not_prolong_the_wait(guard: Guard, clock: time_machine.Traveller) -> None:
    fail(guard, times=100)
    clock.shift(1)

    assert not is_blocked(guard)


def test_success_begins_the_count_anew(guard: Guard) -> None:
    fail(guard, times=4)
    succeed(guard)

    assert fail(guard, times=6) == [0, 0, 0, 0, 0, 1]


def test_a_missing_second_factor_is_neither_failure_nor_success(guard: Guard) -> None:
    fail(guard, times=4)
    for _ in range(10):
        assert not is_blocked(guard)

    assert fail(guard, times=2) == [0, 1]


@pytest.mark.parametrize("found_out", [None, WrongCredentials(), SecondFactorRequired()], ids=repr)
def test_a_wait_that_began_meanwhile_hides_what_an_attempt_found_out(guard: Guard, found_out: Exception | None) -> None:
    def attempt() -> None:
        with guard.attempt("ada", HOME):
            fail(guard, times=5)  # others, while the password is looked at
            if found_out:
                raise found_out

    with pytest.raises(TooManyFailures):
        attempt()


@pytest.mark.parametrize("spelling", ["ADA", "Ada"])
def test_a_name_is_counted_in_all_its_spellings(guard: Guard, spelling: str) -> None:
    fail(guard, times=5)

    assert is_blocked(guard, spelling)


@pytest.mark.parametrize("name", ["nobody", "", "ad\0a", "ä" * 1024, "\ud800"])
def test_names_that_nobody_can_have_are_counted_alike(guard: Guard, name: str) -> None:
    assert fail(guard, name, times=6) == [0, 0, 0, 0, 0, 1]


def test_another_name_does_not_wait(guard: Guard) -> None:
    fail(guard, times=5)

    assert not is_blocked(guard, "bob")


def test_failures_from_many_addresses_add_up(guard: Guard) -> None:
    waits = [fail(guard, address=f"198.51.100.{number}") for number in range(6)]

    assert waits == [[0], [0], [0], [0], [0], [1]]


def test_who_tries_many_names_from_one_address_waits(guard: Guard) -> None:
    waits = [fail(guard, f"user-{number}")[0] for number in range(51)]

    assert waits == [0] * 50 + [1]
    assert not is_blocked(guard, "bob", ELSEWHERE)


def test_a_network_of_ipv6_is_one_address(guard: Guard) -> None:
    for number in range(50):
        fail(guard, f"user-{number}", f"2001:db8:0:1::{number:x}")

    assert is_blocked(guard, "ada", "2001:db8:0:1:ffff::1")
    assert not is_blocked(guard, "ada", "2001:db8:0:2::1")


def test_success_with_an_own_account_does_not_help_who_tries_many_names(guard: Guard) -> None:
    for number in range(50):
        succeed(guard, "mallory")
        fail(guard, f"user-{number}")

    assert is_blocked(guard, "ada")


def test_where_the_owner_logs_in_from_others_cannot_lock_out(guard: Guard) -> None:
    succeed(guard, address=HOME)

    fail(guard, address=ELSEWHERE, times=20)

    assert is_blocked(guard, address=ELSEWHERE)
    assert not is_blocked(guard, address=HOME)


def test_nor_by_trying_other_names_from_there(guard: Guard) -> None:
    succeed(guard, address=HOME)

    for number in range(60):
        fail(guard, f"user-{number}", HOME)

    assert is_blocked(guard, "bob", HOME)
    assert not is_blocked(guard, "ada", HOME)


def test_where_the_owner_logs_in_from_guessing_is_stopped_too(guard: Guard) -> None:
    succeed(guard, address=HOME)

    assert fail(guard, address=HOME, times=6) == [0, 0, 0, 0, 0, 1]


def test_success_at_home_does_not_help_who_guesses_elsewhere(guard: Guard) -> None:
    succeed(guard, address=HOME)
    fail(guard, address=ELSEWHERE, times=5)

    succeed(guard, address=HOME)

    assert is_blocked(guard, address=ELSEWHERE)


def test_home_is_forgotten_a_month_after_the_last_success(guard: Guard, clock: time_machine.Traveller) -> None:
    succeed(guard, address=HOME)
    clock.shift(timedelta(days=30, seconds=-0.5))
    fail(guard, address=ELSEWHERE, times=5)
    before = is_blocked(guard, address=HOME)
    clock.shift(0.5)

    assert (before, is_blocked(guard, address=HOME)) == (False, True)


@pytest.mark.parametrize(("days", "is_known"), [(29, True), (30, False)])
def test_failures_at_home_neither_keep_it_known_nor_make_it_forgotten(
    guard: Guard, clock: time_machine.Traveller, days: int, is_known: bool
) -> None:
    succeed(guard, address=HOME)
    for _ in range(days):
        fail(guard, address=HOME)
        clock.shift(timedelta(days=1))
    fail(guard, address=ELSEWHERE, times=5)

    assert is_blocked(guard, address=HOME) is not is_known


def test_failures_are_forgotten_one_by_one(guard: Guard, clock: time_machine.Traveller) -> None:
    fail(guard, times=5)
    clock.shift(2 * 900)

    assert fail(guard, times=3) == [0, 0, 1]


def test_a_failure_in_between_does_not_keep_others_from_being_forgotten(
    guard: Guard, clock: time_machine.Traveller
) -> None:
    fail(guard, times=4)
    clock.shift(1.5 * 900)
    fail(guard)
    clock.shift(0.5 * 900)

    assert fail(guard, times=3) == [0, 0, 1]  # of five, two are forgotten


def test_who_goes_on_for_days_gets_nothing_free_again(guard: Guard, clock: time_machine.Traveller) -> None:
    fail(guard, times=5)
    for _ in range(100):
        clock.shift(900)
        fail(guard)

    clock.shift(1)
    assert fail(guard, times=2) == [0, 2]


def test_one_failure_a_minute_from_an_address_is_forgotten(guard: Guard, clock: time_machine.Traveller) -> None:
    for number in range(200):
        assert fail(guard, f"user-{number}") == [0]
        clock.shift(60)


def test_a_clock_that_went_back_forgets_nothing(guard: Guard, clock: time_machine.Traveller) -> None:
    fail(guard, times=4)
    clock.shift(-3600)

    assert fail(guard, times=2) == [0, 1]


def test_an_administrator_can_forget_a_name(guard: Guard, database: Database) -> None:
    succeed(guard, address=HOME)
    for address in (HOME, ELSEWHERE):
        fail(guard, address=address, times=5)
    fail(guard, "ada2", ELSEWHERE, times=5)

    guard.forget("ADA")

    assert [is_blocked(guard, address=address) for address in (HOME, ELSEWHERE)] == [False, False]
    assert is_blocked(guard, "ada2", ELSEWHERE)


def test_old_counts_are_deleted_in_passing(guard: Guard, database: Database, clock: time_machine.Traveller) -> None:
    for number in range(10):
        fail(guard, f"user-{number}", f"198.51.100.{number}")
    clock.shift(timedelta(days=1, seconds=1))

    fail(guard, "bob", HOME)

    with database.read() as session:
        assert len(session.scalars(select(LoginFailures)).all()) == 2


def test_neither_names_nor_addresses_are_stored(guard: Guard, database: Database) -> None:
    succeed(guard, "correct horse", HOME)
    fail(guard, "correct horse", HOME)
    fail(guard, "correct horse", ELSEWHERE)

    with database.read() as session:
        subjects = session.scalars(select(LoginFailures.subject)).all()

    assert len(subjects) == 4
    assert not any(text in subject for subject in subjects for text in ("horse", "192", "198"))
    assert Guard(database, SECRET.lower()).forget("correct horse") == 0  # one needs the secret to find a name


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::1]", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unknown", "unknown"),
    ],
)
def test_one_caller_is_an_ipv4_address_or_a_network_of_ipv6(address: str, network: str) -> None:
    assert network_of(address) == network
