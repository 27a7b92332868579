"""The second factor's rules: which codes are taken, and that none is taken twice."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree

import pytest
import time_machine
from pyotp.totp import TOTP
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from structlog.testing import capture_logs

from common import migrations
from common.db import Database
from user_service.passwords import Passwords
from user_service.sealing import Sealer, Unreadable
from user_service.second_factor import AlreadyActive, NotEnrolled, SecondFactor
from user_service.tables import RecoveryCode, User
from user_service.users import Users, WrongCode

MIGRATIONS = Path(__file__).resolve().parents[2] / "user_service" / "migrations"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OLD, NEW = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu", "hR6tYw2cVn8Kq4Zx0Lm7Sb3Pd9Fg5Ja1"
SECRET = base64.b32encode(b"12345678901234567890").decode()  # of RFC 6238, appendix B


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/users.db")
    migrations.upgrade(database, MIGRATIONS)
    yield database
    database.dispose()


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def users(database: Database) -> Users:
    return Users(database, Passwords(memory_kib=8, passes=1))


@pytest.fixture
def factor(database: Database) -> SecondFactor:
    return SecondFactor(database, Sealer("second factor", NEW), issuer="Tea & Co")


@pytest.fixture
def ada(users: Users) -> User:
    return users.register("ada", "password123")


def nothing(_: Session) -> None: ...


def code_at(secret: str, steps: int = 0) -> str:
    """The code that a device shows so many steps from now."""
    return TOTP(secret).at(datetime.now(UTC), counter_offset=steps)


def activate(factor: SecondFactor, users: Users, user: User) -> tuple[User, str, list[str]]:
    """The user with an active second factor, confirmed with the code of one step ago, its secret and codes."""
    secret = factor.enrol(user).secret
    enrolled = users.get(user.id)
    codes = factor.confirm(enrolled, factor.step_of(enrolled, code_at(secret, -1)), also=nothing)
    return users.get(user.id), secret, codes


# Setting up


def test_an_enrolment_says_the_same_in_three_forms(factor: SecondFactor, ada: User) -> None:
    enrolment = factor.enrol(ada)

    uri = urlsplit(enrolment.uri)
    assert (uri.scheme, uri.netloc, unquote(uri.path)) == ("otpauth", "totp", "/Tea & Co:ada")
    assert parse_qs(uri.query) == {"secret": [enrolment.secret], "issuer": ["Tea & Co"]}
    assert len(base64.b32decode(enrolment.secret)) == 20
    assert ElementTree.fromstring(enrolment.qr_svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert not re.search("<script|href|<!|style=", enrolment.qr_svg)


def test_each_enrolment_has_a_secret_of_its_own_and_the_last_counts(
    factor: SecondFactor, users: Users, ada: User
) -> None:
    first, last = factor.enrol(ada).secret, factor.enrol(ada).secret
    enrolled = users.get(ada.id)

    with pytest.raises(WrongCode):
        factor.step_of(enrolled, code_at(first))
    factor.confirm(enrolled, factor.step_of(enrolled, code_at(last)), also=nothing)

    assert factor.status(users.get(ada.id)).is_active


def test_it_is_not_active_before_it_is_confirmed(factor: SecondFactor, users: Users, ada: User) -> None:
    factor.enrol(ada)
    enrolled = users.get(ada.id)

    assert not factor.status(enrolled).is_active
    with pytest.raises(NotEnrolled):
        factor.use(enrolled, "123456")


def test_nothing_can_be_confirmed_that_was_not_begun(factor: SecondFactor, ada: User) -> None:
    with pytest.raises(NotEnrolled):
        factor.step_of(ada, "123456")
    with pytest.raises(NotEnrolled):
        factor.confirm(ada, 1, also=nothing)


def test_a_confirmation_of_another_secret_than_the_last_is_refused(
    factor: SecondFactor, users: Users, ada: User
) -> None:
    secret = factor.enrol(ada).secret
    enrolled = users.get(ada.id)
    step = factor.step_of(enrolled, code_at(secret))
    factor.enrol(ada)  # by somebody else, meanwhile

    with pytest.raises(NotEnrolled):
        factor.confirm(enrolled, step, also=nothing)


def test_an_active_one_is_neither_replaced_nor_confirmed_again(factor: SecondFactor, users: Users, ada: User) -> None:
    active, _, _ = activate(factor, users, ada)

    with pytest.raises(AlreadyActive):
        factor.enrol(active)
    with pytest.raises(AlreadyActive):
        factor.enrol(ada)  # as read before
    with pytest.raises(AlreadyActive):
        factor.confirm(active, 10**9, also=nothing)


def test_what_else_is_to_be_done_fails_together_with_the_confirmation(
    factor: SecondFactor, users: Users, ada: User
) -> None:
    secret = factor.enrol(ada).secret
    enrolled = users.get(ada.id)

    def broken(_: Session) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        factor.confirm(enrolled, factor.step_of(enrolled, code_at(secret)), also=broken)

    assert not factor.status(users.get(ada.id)).is_active


def test_it_can_be_removed_with_all_that_belongs_to_it(
    factor: SecondFactor, users: Users, ada: User, database: Database
) -> None:
    active, _, _ = activate(factor, users, ada)

    assert factor.remove(active)

    gone = users.get(ada.id)
    assert (gone.totp_secret, gone.totp_confirmed_at, gone.totp_last_step) == (None, None, None)
    with database.read() as session:
        assert session.scalars(select(RecoveryCode)).all() == []
    assert not factor.remove(gone)


# One-time codes


@pytest.mark.parametrize(
    ("unix_time", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")],
)
def test_codes_are_those_of_rfc_6238(
    factor: SecondFactor,
    users: Users,
    ada: User,
    database: Database,
    clock: time_machine.Traveller,
    unix_time: int,
    code: str,
) -> None:
    sealed = Sealer("second factor", NEW).seal(SECRET, ada.id)
    with database.write() as session:
        session.execute(update(User).values(totp_secret=sealed, totp_confirmed_at=NOW, totp_last_step=0))
    clock.move_to(unix_time)

    assert factor.use(users.get(ada.id), code) == "totp"


@pytest.mark.parametrize(("steps", "taken"), [(-2, False), (0, True), (1, True), (2, False)])
def test_clocks_may_differ_by_one_step(
    factor: SecondFactor, users: Users, ada: User, clock: time_machine.Traveller, steps: int, taken: bool
) -> None:
    active, secret, _ = activate(factor, users, ada)
    clock.shift(300)

    assert is_taken(factor, active, code_at(secret, steps)) is taken


@pytest.mark.parametrize(
    ("first", "then", "taken"),
    [(0, 0, False), (0, -1, False), (1, 0, False), (1, -1, False), (-1, 0, True), (-1, 1, True), (0, 1, True)],
)
def test_a_code_is_good_once_and_none_that_is_older(
    factor: SecondFactor, users: Users, ada: User, clock: time_machine.Traveller, first: int, then: int, taken: bool
) -> None:
    active, secret, _ = activate(factor, users, ada)
    clock.shift(300)
    factor.use(active, code_at(secret, first))

    assert is_taken(factor, active, code_at(secret, then)) is taken
    assert is_taken(factor, users.get(ada.id), code_at(secret, then)) is False


def test_the_code_that_confirmed_is_used(factor: SecondFactor, users: Users, ada: User) -> None:
    active, secret, _ = activate(factor, users, ada)

    assert not is_taken(factor, active, code_at(secret, -1))


@pytest.mark.parametrize("spelling", ["{0}{1}", "{0} {1}", " {0}-{1} "])
def test_spaces_in_a_code_do_no_harm(factor: SecondFactor, users: Users, ada: User, spelling: str) -> None:
    active, secret, _ = activate(factor, users, ada)
    code = code_at(secret)

    assert factor.use(active, spelling.format(code[:3], code[3:])) == "totp"


@pytest.mark.parametrize(
    "code",
    ["", "0", "12345", "1234567", "abcdef", "-12345", "12345٣", "1" * 64, "\0", "AAAA-AAAA-AAAA-AAAA", "' OR 1=1"],
)
def test_what_is_no_code_is_wrong(factor: SecondFactor, users: Users, ada: User, code: str) -> None:
    active, _, _ = activate(factor, users, ada)

    assert not is_taken(factor, active, code)


def test_a_code_of_a_secret_that_was_replaced_meanwhile_is_wrong(factor: SecondFactor, users: Users, ada: User) -> None:
    active, secret, _ = activate(factor, users, ada)
    factor.remove(active)
    activate(factor, users, users.get(ada.id))

    assert not is_taken(factor, active, code_at(secret))  # `active` is as read before


# Recovery codes


def test_ten_recovery_codes_are_random_and_kept_as_digests(
    factor: SecondFactor, users: Users, ada: User, database: Database
) -> None:
    _, _, codes = activate(factor, users, ada)

    assert len(set(codes)) == 10
    assert all(re.fullmatch(r"([A-Z2-7]{4}-){3}[A-Z2-7]{4}", code) for code in codes)  # 80 bits
    with database.read() as session:
        stored = session.scalars(select(RecoveryCode.digest)).all()
    assert {len(digest) for digest in stored} == {64}


def test_a_recovery_code_is_good_once(factor: SecondFactor, users: Users, ada: User) -> None:
    active, _, codes = activate(factor, users, ada)

    assert factor.use(active, codes[3]) == "recovery"

    assert not is_taken(factor, active, codes[3])
    assert factor.status(active).recovery_codes_left == 9
    assert factor.use(active, codes[4].lower().replace("-", " ")) == "recovery"


def test_a_recovery_code_of_somebody_else_is_wrong(factor: SecondFactor, users: Users, ada: User) -> None:
    active, _, _ = activate(factor, users, ada)
    _, _, codes = activate(factor, users, users.register("bob", "password123"))

    assert not is_taken(factor, active, codes[0])


def test_new_recovery_codes_void_the_old_ones(factor: SecondFactor, users: Users, ada: User) -> None:
    active, _, old = activate(factor, users, ada)
    factor.use(active, old[0])

    new = factor.renew_recovery_codes(active)

    assert factor.status(active).recovery_codes_left == 10
    assert not is_taken(factor, active, old[1])
    assert factor.use(active, new[0]) == "recovery"


def test_without_a_second_factor_there_are_no_recovery_codes(factor: SecondFactor, ada: User) -> None:
    with pytest.raises(NotEnrolled):
        factor.renew_recovery_codes(ada)


# At rest


def test_the_secret_is_not_in_the_database(factor: SecondFactor, users: Users, ada: User) -> None:
    active, secret, _ = activate(factor, users, ada)

    assert active.totp_secret is not None
    assert len(active.totp_secret) <= 255
    assert secret not in active.totp_secret
    assert secret.encode() not in base64.b64decode(active.totp_secret.partition(".")[2])


def test_a_secret_in_the_row_of_another_is_of_no_use(
    factor: SecondFactor, users: Users, ada: User, database: Database
) -> None:
    active, secret, _ = activate(factor, users, ada)
    bob = users.register("bob", "password123")
    with database.write() as session:
        stolen = {"totp_secret": active.totp_secret, "totp_confirmed_at": NOW}
        session.execute(update(User).where(User.id == bob.id).values(stolen))

    with capture_logs() as logs:
        assert not is_taken(factor, users.get(bob.id), code_at(secret))

    assert [line["event"] for line in logs] == ["totp_secret_unreadable"]


def test_after_a_change_of_the_service_secret_codes_are_taken_with_the_previous_one(
    users: Users, ada: User, database: Database
) -> None:
    before = SecondFactor(database, Sealer("second factor", OLD), issuer="Shop")
    active, secret, codes = activate(before, users, ada)

    forgotten = SecondFactor(database, Sealer("second factor", NEW), issuer="Shop")
    remembered = SecondFactor(database, Sealer("second factor", NEW, OLD), issuer="Shop")

    assert not is_taken(forgotten, active, code_at(secret))
    assert forgotten.use(active, codes[0]) == "recovery"
    assert remembered.use(active, code_at(secret)) == "totp"
    assert forgotten.use(users.get(ada.id), code_at(secret, 1)) == "totp"  # it was sealed anew


@pytest.mark.parametrize(
    "sealed", ["", ".", "nonsense", "0000.AAAA", "{label}.", "{label}.AAAA", "{label}.***", "{label}"]
)
def test_what_is_not_sealed_cannot_be_opened(sealed: str) -> None:
    sealer = Sealer("second factor", NEW)
    label = sealer.seal("text", "ada").partition(".")[0]

    with pytest.raises(Unreadable):
        sealer.open(sealed.format(label=label), "ada")


def test_what_is_sealed_for_one_purpose_cannot_be_opened_for_another() -> None:
    sealed = Sealer("second factor", NEW).seal("text", "ada")

    assert Sealer("second factor", NEW).open(sealed, "ada") == "text"
    with pytest.raises(Unreadable):
        Sealer("other", NEW).open(sealed, "ada")


def test_nothing_is_sealed_the_same_way_twice() -> None:
    sealer = Sealer("second factor", NEW)

    assert sealer.seal("text", "ada") != sealer.seal("text", "ada")


def is_taken(factor: SecondFactor, user: User, code: str) -> bool:
    try:
        factor.use(user, code)
    except WrongCode:
        return False
    return True
