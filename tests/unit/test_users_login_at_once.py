"""Many at the same time: failures are all counted and a code is good once, on both databases."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyotp.totp import TOTP
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common import migrations
from common.db import Database
from tests.support.postgres import Postgres, Unavailable, postgres_server
from user_service.guard import Guard
from user_service.passwords import Passwords
from user_service.sealing import Sealer
from user_service.second_factor import SecondFactor
from user_service.tables import LoginFailures, RecoveryCode, User
from user_service.users import UserError, Users, WrongCredentials

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    try:
        with postgres_server() as server:
            yield server
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a migrated database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/users.db"
    else:
        server: Postgres = request.getfixturevalue("server")
        url = server.create_database("users")
    database = Database(url)
    migrations.upgrade(database, MIGRATIONS)
    database.dispose()
    return url


@pytest.fixture
def workers(url: str) -> Iterator[list[Database]]:
    """The same database as two processes see it."""
    databases = [Database(url, pool_size=12) for _ in range(2)]
    yield databases
    for database in databases:
        database.dispose()


def together(count: int, work: Callable[[int], object]) -> Counter[str]:
    """What became of `work(0)` to `work(count - 1)`, all begun at once: names of errors, `done` for none."""
    barrier = threading.Barrier(count)

    def outcome(number: int) -> str:
        barrier.wait(20)
        try:
            work(number)
        except UserError as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(count) as pool:
        return Counter(pool.map(outcome, range(count)))


def test_of_twenty_wrong_attempts_at_once_all_are_counted_and_five_learn_something(workers: list[Database]) -> None:
    guards = [Guard(database, SECRET) for database in workers]
    admitted = threading.Barrier(20)

    def attempt(number: int) -> None:
        with guards[number % 2].attempt("ada", f"192.0.2.{number % 3}"):
            admitted.wait(20)  # all were admitted before the first has failed
            raise WrongCredentials

    outcomes = together(20, attempt)

    assert outcomes == {"WrongCredentials": 5, "TooManyFailures": 15}
    with workers[0].read() as session:
        rows = session.scalars(select(LoginFailures).where(LoginFailures.subject.startswith("user:"))).all()
    assert [row.count for row in rows] == [20]


def test_many_who_are_right_at_once_all_get_in(workers: list[Database]) -> None:
    guards = [Guard(database, SECRET) for database in workers]

    def attempt(number: int) -> None:
        with guards[number % 2].attempt("ada", "192.0.2.1"):
            pass

    assert together(20, attempt) == {"done": 20}


def test_failures_and_successes_of_many_names_and_addresses_do_not_wait_in_a_circle(workers: list[Database]) -> None:
    guards = [Guard(database, SECRET, free=1000, address_free=1000) for database in workers]

    def attempts(number: int) -> None:
        for round_ in range(10):
            with guards[number % 2].attempt(f"name-{(number + round_) % 3}", f"192.0.2.{(number * round_) % 3}"):
                if (number + round_) % 2:
                    raise WrongCredentials

    def keep_on(number: int) -> None:
        for _ in range(5):
            try:
                attempts(number)
            except WrongCredentials:
                continue

    assert together(12, keep_on) == {"done": 12}


class Ada:
    """A user with a second factor, as two processes see her."""

    def __init__(self, workers: list[Database]) -> None:
        users = Users(workers[0], Passwords(memory_kib=8, passes=1))
        self.factors = [SecondFactor(database, Sealer("second factor", SECRET), issuer="Shop") for database in workers]
        factor = self.factors[0]
        registered = users.register("ada", "password123")
        self._secret = factor.enrol(registered).secret
        self.enrolled = users.get(registered.id)
        self.codes = factor.confirm(self.enrolled, 1, also=nothing)
        self.user = users.get(registered.id)

    def code(self) -> str:
        return TOTP(self._secret).at(datetime.now(UTC))


def nothing(_: Session) -> None: ...


def test_of_many_with_one_code_at_once_one_gets_in(workers: list[Database]) -> None:
    ada = Ada(workers)
    code = ada.code()

    outcomes = together(10, lambda number: ada.factors[number % 2].use(ada.user, code))

    assert outcomes == {"done": 1, "WrongCode": 9}


def test_of_many_with_one_recovery_code_at_once_one_gets_in(workers: list[Database]) -> None:
    ada = Ada(workers)

    outcomes = together(10, lambda number: ada.factors[number % 2].use(ada.user, ada.codes[0]))

    assert outcomes == {"done": 1, "WrongCode": 9}
    assert ada.factors[0].status(ada.user).recovery_codes_left == 9


def test_of_many_who_confirm_at_once_one_gets_recovery_codes(workers: list[Database]) -> None:
    ada = Ada(workers)
    factor, users = ada.factors[0], Users(workers[0], Passwords(memory_kib=8, passes=1))
    factor.remove(ada.user)
    factor.enrol(ada.user)
    enrolled = users.get(ada.user.id)

    outcomes = together(10, lambda number: ada.factors[number % 2].confirm(enrolled, 2, also=nothing))

    assert outcomes == {"done": 1, "NotEnrolled": 9}


def test_many_renewals_at_once_leave_ten_recovery_codes(workers: list[Database]) -> None:
    ada = Ada(workers)

    outcomes = together(6, lambda number: ada.factors[number % 2].renew_recovery_codes(ada.user))

    assert outcomes == {"done": 6}
    with workers[0].read() as session:
        assert session.scalar(select(func.count()).select_from(RecoveryCode)) == 10
        assert session.scalar(select(func.count()).select_from(User)) == 1
