"""Sessions: one refresh token is good at any time, and whoever shows a used one ends the session."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
import time_machine
from apiflask import APIFlask
from sqlalchemy import func, select, update

from common.settings import load
from tests.support.postgres import Unavailable, postgres_server
from user_service import create_app
from user_service.audit import Audit
from user_service.refresh_tokens import PREFIX, digest
from user_service.revocations import Revocations
from user_service.sessions import (
    Grant,
    InvalidRefreshToken,
    RefreshReused,
    SessionError,
    Sessions,
    Terms,
    UnknownSession,
)
from user_service.settings import UserSettings
from user_service.tables import Base, LoginSession, RefreshToken, User
from user_service.users import UnknownUser

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
TERMS = Terms(refresh_ttl_s=30 * 86_400, session_ttl_s=90 * 86_400, grace_s=0, most_per_user=3)


@dataclass(frozen=True, slots=True)
class House:
    """The sessions of one app, and one user."""

    app: APIFlask
    ada: User

    def sessions(self, terms: Terms = TERMS) -> Sessions:
        extensions = self.app.extensions
        audit: Audit = extensions["audit"]
        revocations: Revocations = extensions["revocations"]
        return Sessions(
            extensions["database"],
            revocations,
            audit,
            extensions["access_tokens"],
            permissions_of=lambda user: [f"{role}:do" for role in user.roles],
            terms=terms,
        )

    def void(self) -> list[str]:
        """The sessions whose tokens are void."""
        return [entry.subject for entry in self.app.extensions["revocations"].entries_after(0)[0]]

    def row(self, grant: Grant) -> LoginSession:
        with self.app.extensions["database"].read() as session:
            return session.get_one(LoginSession, sid_of(grant))

    def count(self, table: type[Base]) -> int:
        with self.app.extensions["database"].read() as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    try:
        with postgres_server() as server:
            yield server.create_database("sessions")
    except Unavailable as reason:
        pytest.skip(str(reason))


def built(url: str, directory: Path) -> Iterator[House]:
    given = {"database_url": url, "var_dir": directory, "jwt_secret_key": SECRET, "database_pool_size": 30}
    app = create_app(load(UserSettings, "user_service", **given))
    database = app.extensions["database"]
    Base.metadata.create_all(database.engine)
    ada = User(username="ada", username_key="ada", password_hash="", roles=["customer"])
    with database.write() as session:
        session.add(ada)
    with app.app_context():
        yield House(app, ada)
    Base.metadata.drop_all(database.engine)
    database.dispose()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from built(f"sqlite:///{tmp_path}/users.db", tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    is_sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/users.db" if is_sqlite else str(request.getfixturevalue("postgres_url"))
    yield from built(url, tmp_path)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def sid_of(grant: Grant) -> str:
    return str(claims(grant)["sid"])


def claims(grant: Grant) -> dict[str, object]:
    return jwt.decode(grant.access_token, options={"verify_signature": False})


def refused(sessions: Sessions, token: str) -> type[SessionError] | None:
    """How `token` is refused, None if it is not."""
    try:
        sessions.refresh(token)
    except SessionError as error:
        return type(error)
    return None


def test_a_log_in_begins_a_session_and_says_so_in_the_token(house: House, clock: time_machine.Traveller) -> None:
    grant = house.sessions().begin(house.ada, ["pwd", "otp"], device="curl/8.5.0", address="192.0.2.7")

    row, said = house.row(grant), claims(grant)
    assert (row.device, row.address, row.amr) == ("curl/8.5.0", "192.0.2.7", ["pwd", "otp"])
    assert (said["sub"], said["gen"], said["amr"]) == (house.ada.id, 0, ["pwd", "otp"])
    assert (said["permissions"], said["auth_time"]) == (["customer:do"], NOW.timestamp())
    assert (grant.expires_in, grant.refresh_expires_in) == (900, 30 * 86_400)


def test_a_refresh_token_is_256_random_bits_that_nobody_stores(house: House) -> None:
    sessions = house.sessions()
    first = sessions.begin(house.ada, ["pwd"])
    second = sessions.refresh(first.refresh_token)

    with house.app.extensions["database"].read() as session:
        stored = set(session.scalars(select(RefreshToken.digest)))
    for token in (first.refresh_token, second.refresh_token):
        assert token.startswith(PREFIX)
        assert len(token) == len(PREFIX) + 43
    assert stored == {digest(first.refresh_token), digest(second.refresh_token)}


def test_a_refresh_gives_the_next_pair_of_the_same_session(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions()
    first = sessions.begin(house.ada, ["pwd"])
    clock.shift(DAY)

    second = sessions.refresh(first.refresh_token, address="192.0.2.8")

    assert second.refresh_token != first.refresh_token
    assert (sid_of(second), claims(second)["amr"]) == (sid_of(first), ["pwd"])
    assert claims(second)["auth_time"] == NOW.timestamp()  # when the password was shown, not when it was refreshed
    assert (house.row(first).last_used_at, house.row(first).address) == (NOW + DAY, "192.0.2.8")
    assert refused(sessions, second.refresh_token) is None


def test_a_refreshed_token_carries_what_has_changed_since(house: House) -> None:
    sessions = house.sessions()
    grant = sessions.begin(house.ada, ["pwd"])
    with house.app.extensions["database"].write() as session:
        user = session.get_one(User, house.ada.id)
        user.roles = ["customer", "admin"]
        house.app.extensions["revocations"].revoke_user(session, user)

    said = claims(sessions.refresh(grant.refresh_token))

    assert (said["gen"], said["roles"]) == (1, ["customer", "admin"])
    assert said["permissions"] == ["admin:do", "customer:do"]


def test_a_used_refresh_token_ends_the_whole_family(house: House) -> None:
    sessions = house.sessions()
    first = sessions.begin(house.ada, ["pwd"])
    second = sessions.refresh(first.refresh_token)
    third = sessions.refresh(second.refresh_token)

    with pytest.raises(RefreshReused):
        sessions.refresh(first.refresh_token)

    assert refused(sessions, third.refresh_token) is InvalidRefreshToken
    assert house.row(first).end_reason == "reused"
    assert house.void() == [sid_of(first)]
    assert sessions.of(house.ada.id) == []


def test_reuse_is_in_the_audit_log_once_and_names_no_token(house: House) -> None:
    sessions = house.sessions()
    first = sessions.begin(house.ada, ["pwd"])
    sessions.refresh(first.refresh_token)
    for _ in range(2):
        refused(sessions, first.refresh_token)

    entries, _ = house.app.extensions["audit"].page(event="session.ended")
    assert [(entry.outcome, entry.subject) for entry in entries] == [("denied", house.ada.id)]
    assert entries[0].details == {"session": sid_of(first), "reason": "reused"}


def test_other_sessions_of_the_user_go_on_after_a_reuse(house: House) -> None:
    sessions = house.sessions()
    stolen, other = sessions.begin(house.ada, ["pwd"]), sessions.begin(house.ada, ["pwd"])
    sessions.refresh(stolen.refresh_token)

    assert refused(sessions, stolen.refresh_token) is RefreshReused

    assert refused(sessions, other.refresh_token) is None


@pytest.mark.parametrize("token", ["", "x", PREFIX, PREFIX + "A" * 43, "shop_rt_\0", "\ud800", "é" * 50])
def test_what_is_no_refresh_token_of_ours_is_refused(house: House, token: str) -> None:
    house.sessions().begin(house.ada, ["pwd"])

    assert refused(house.sessions(), token) is InvalidRefreshToken


def test_an_access_token_is_no_refresh_token(house: House) -> None:
    grant = house.sessions().begin(house.ada, ["pwd"])

    assert refused(house.sessions(), grant.access_token) is InvalidRefreshToken


def test_a_refresh_token_that_is_not_used_expires(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions()
    grant = sessions.begin(house.ada, ["pwd"])

    clock.shift(timedelta(seconds=grant.refresh_expires_in))

    assert refused(sessions, grant.refresh_token) is InvalidRefreshToken
    assert sessions.of(house.ada.id) == []


def test_a_session_ends_at_last_however_often_it_is_refreshed(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions()
    grant = sessions.begin(house.ada, ["pwd"])

    for _ in range(4):
        clock.shift(20 * DAY)
        grant = sessions.refresh(grant.refresh_token)

    assert grant.refresh_expires_in == 10 * 86_400
    clock.shift(10 * DAY - timedelta(minutes=1))
    grant = sessions.refresh(grant.refresh_token)
    assert (grant.expires_in, grant.refresh_expires_in) == (60, 60)
    clock.shift(60)
    assert refused(sessions, grant.refresh_token) is InvalidRefreshToken


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_refreshes_at_once_exactly_one_succeeds(any_house: House, attempt: int) -> None:
    sessions = any_house.sessions()
    grant = sessions.begin(any_house.ada, ["pwd"])

    outcomes = at_once(any_house, sessions, grant.refresh_token)

    granted = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
    reused = [outcome for outcome in outcomes if isinstance(outcome, RefreshReused)]
    assert (len(granted), len(reused)) == (1, 1)  # the others come to a session that has ended
    assert refused(sessions, granted[0].refresh_token) is InvalidRefreshToken


def test_in_the_grace_many_at_once_get_one_and_the_same_next_token(any_house: House) -> None:
    sessions = any_house.sessions(replace(TERMS, grace_s=30))
    grant = sessions.begin(any_house.ada, ["pwd"])

    outcomes = at_once(any_house, sessions, grant.refresh_token)

    assert len({outcome.refresh_token for outcome in outcomes if isinstance(outcome, Grant)}) == 1
    assert not [outcome for outcome in outcomes if isinstance(outcome, SessionError)]
    assert any_house.count(RefreshToken) == 2


def at_once(house: House, sessions: Sessions, token: str, callers: int = 20) -> list[Grant | SessionError]:
    def refresh(_: int) -> Grant | SessionError:
        with house.app.app_context():
            try:
                return sessions.refresh(token)
            except SessionError as error:
                return error

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(refresh, range(callers)))


def test_in_the_grace_a_lost_answer_is_given_again(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions(replace(TERMS, grace_s=10))
    first = sessions.begin(house.ada, ["pwd"])
    lost = sessions.refresh(first.refresh_token)
    clock.shift(10)

    again = sessions.refresh(first.refresh_token)

    assert again.refresh_token == lost.refresh_token
    assert claims(again)["jti"] != claims(lost)["jti"]
    assert refused(sessions, again.refresh_token) is None


def test_after_the_grace_a_used_token_ends_the_family(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions(replace(TERMS, grace_s=10))
    first = sessions.begin(house.ada, ["pwd"])
    second = sessions.refresh(first.refresh_token)
    clock.shift(10.5)

    assert refused(sessions, first.refresh_token) is RefreshReused

    assert refused(sessions, second.refresh_token) is InvalidRefreshToken


def test_the_grace_is_only_for_the_token_before_the_one_that_is_good(
    house: House, clock: time_machine.Traveller
) -> None:
    sessions = house.sessions(replace(TERMS, grace_s=10))
    first = sessions.begin(house.ada, ["pwd"])
    second = sessions.refresh(first.refresh_token)
    third = sessions.refresh(second.refresh_token)

    assert refused(sessions, first.refresh_token) is RefreshReused

    assert refused(sessions, third.refresh_token) is InvalidRefreshToken


def test_a_grace_that_was_switched_off_forgives_nothing_more(house: House) -> None:
    first = house.sessions(replace(TERMS, grace_s=10)).begin(house.ada, ["pwd"])
    house.sessions(replace(TERMS, grace_s=10)).refresh(first.refresh_token)

    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=1)):
        assert refused(house.sessions(), first.refresh_token) is RefreshReused


def test_without_grace_the_rows_hold_nothing_that_makes_a_token(house: House) -> None:
    sessions = house.sessions()
    sessions.refresh(sessions.begin(house.ada, ["pwd"]).refresh_token)

    with house.app.extensions["database"].read() as session:
        assert set(session.scalars(select(RefreshToken.seed))) == {None}


def test_one_session_too_many_ends_the_one_that_was_used_least_recently(
    house: House, clock: time_machine.Traveller
) -> None:
    sessions = house.sessions()
    grants: list[Grant] = []
    for _ in range(3):
        clock.shift(60)
        grants.append(sessions.begin(house.ada, ["pwd"]))
    grants[0] = sessions.refresh(grants[0].refresh_token)
    clock.shift(60)

    grants.append(sessions.begin(house.ada, ["pwd"]))

    assert [refused(sessions, grant.refresh_token) for grant in grants] == [None, InvalidRefreshToken, None, None]
    assert house.void() == [sid_of(grants[1])]


def test_many_log_ins_at_once_leave_no_more_sessions_than_allowed(any_house: House) -> None:
    sessions = any_house.sessions()

    def log_in(_: int) -> None:
        with any_house.app.app_context():
            sessions.begin(any_house.ada, ["pwd"])

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(log_in, range(20)))

    assert len(sessions.of(any_house.ada.id)) == TERMS.most_per_user


def test_ending_a_session_makes_its_tokens_void(house: House) -> None:
    sessions = house.sessions()
    ended, other = sessions.begin(house.ada, ["pwd"]), sessions.begin(house.ada, ["pwd"])

    sessions.end(house.ada.id, sid_of(ended))

    assert house.void() == [sid_of(ended)]
    assert refused(sessions, ended.refresh_token) is InvalidRefreshToken
    assert refused(sessions, other.refresh_token) is None


def test_only_its_owner_ends_a_session_and_only_once(house: House) -> None:
    sessions = house.sessions()
    grant = sessions.begin(house.ada, ["pwd"])

    with pytest.raises(UnknownSession):
        sessions.end("somebody else", sid_of(grant))
    sessions.end(house.ada.id, sid_of(grant))
    with pytest.raises(UnknownSession):
        sessions.end(house.ada.id, sid_of(grant))

    assert house.void() == [sid_of(grant)]


def test_all_sessions_are_ended_or_all_but_one(house: House) -> None:
    sessions = house.sessions()
    grants = [sessions.begin(house.ada, ["pwd"]) for _ in range(3)]

    others = sessions.end_all(house.ada.id, but=sid_of(grants[1]))
    left = [session.id for session in sessions.of(house.ada.id)]
    rest = sessions.end_all(house.ada.id)

    assert (others, left, rest) == (2, [sid_of(grants[1])], 1)
    assert sorted(house.void()) == sorted(sid_of(grant) for grant in grants)


def test_an_erased_user_refreshes_nothing(house: House) -> None:
    grant = house.sessions().begin(house.ada, ["pwd"])
    with house.app.extensions["database"].write() as session:
        session.execute(update(User).values(erased_at=NOW))

    assert refused(house.sessions(), grant.refresh_token) is InvalidRefreshToken
    with pytest.raises(UnknownUser):
        house.sessions().begin(house.ada, ["pwd"])


def test_a_refresh_and_an_end_at_once_leave_no_token_that_works(any_house: House) -> None:
    for _ in range(10):
        sessions = any_house.sessions()
        grant = sessions.begin(any_house.ada, ["pwd"])
        with ThreadPoolExecutor(2) as pool:
            refreshed = pool.submit(at_once, any_house, sessions, grant.refresh_token, 1)
            pool.submit(sessions.end_all, any_house.ada.id).result()

        outcome = refreshed.result()[0]

        assert sid_of(grant) in any_house.void()
        if isinstance(outcome, Grant):
            assert refused(sessions, outcome.refresh_token) is InvalidRefreshToken


def test_what_ended_a_day_ago_is_deleted(house: House, clock: time_machine.Traveller) -> None:
    sessions = house.sessions()
    sessions.end(house.ada.id, sid_of(sessions.begin(house.ada, ["pwd"])))
    clock.shift(DAY)
    too_early = sessions.sweep()
    sessions.begin(house.ada, ["pwd"])
    clock.shift(1)

    assert (too_early, sessions.sweep()) == (0, 1)
    assert (house.count(LoginSession), house.count(RefreshToken)) == (1, 1)


def test_used_tokens_are_remembered_for_as_long_as_they_would_have_been_valid(
    house: House, clock: time_machine.Traveller
) -> None:
    sessions = house.sessions()
    grant = sessions.begin(house.ada, ["pwd"])
    for _ in range(4):
        clock.shift(11 * DAY)
        grant = sessions.refresh(grant.refresh_token)

    assert house.count(RefreshToken) == 3  # of five: two would have expired more than a week ago
    assert refused(sessions, grant.refresh_token) is None


@pytest.mark.parametrize(
    ("user_agent", "device"), [("x" * 500, "x" * 120), ("a\0b\r\nc\u202ed", "abcd"), ("", ""), ("Ä 1.0", "Ä 1.0")]
)
def test_a_device_is_named_briefly_and_in_printable_letters(house: House, user_agent: str, device: str) -> None:
    assert house.row(house.sessions().begin(house.ada, ["pwd"], device=user_agent)).device == device
