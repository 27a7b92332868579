"""API keys: what they are exchanged for, and how they end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import time_machine
from apiflask import APIFlask
from sqlalchemy import select
from werkzeug.test import TestResponse

from common import service_tokens
from common.key_format import beginning, digest, new_key
from common.models import utc_now
from common.permissions import BUILT_IN
from common.settings import load
from common.tokens import Identity, Verifier
from tests.support.postgres import Unavailable, postgres_server
from user_service import create_app
from user_service.api_keys import ApiKeys, BeyondOwner, EndsTooSoon, NotActive, Refused, TooManyApiKeys, UnknownApiKey
from user_service.settings import UserSettings
from user_service.tables import ApiKey, Base, User

SECRET = "9mPq2vXw7RkT4zLc8NbY1hGd5sJf3aEu"
SERVICE_SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
NOW = datetime(2026, 5, 4, 12, 0, tzinfo=UTC)
ADA, BOB, BOSS = (f"00000000-0000-4000-8000-00000000000{number}" for number in (1, 2, 3))
CUSTOMERS = BUILT_IN["customer"]


@dataclass(frozen=True, slots=True)
class House:
    """One app with two customers and an administrator."""

    app: APIFlask

    @property
    def keys(self) -> ApiKeys:
        keys: ApiKeys = self.app.extensions["api_keys"]
        return keys

    def make(self, *scopes: str, of: str = ADA, **terms: Any) -> tuple[ApiKey, str]:
        return self.keys.create(of, "nightly export", scopes or ["orders:read"], permitted=CUSTOMERS, **terms)

    def exchange(self, text: str) -> Identity:
        """What the token says that the key is exchanged for."""
        verifier: Verifier = self.app.extensions["verifier"]
        with self.app.app_context():
            return verifier.verify(self.keys.exchange(text).access_token)

    def is_refused(self, text: str) -> bool:
        with self.app.app_context():
            try:
                self.keys.exchange(text)
            except Refused:
                return True
        return False

    def change_user(self, user_id: str, **values: object) -> None:
        with self.app.extensions["database"].write() as session:
            user = session.get_one(User, user_id)
            for name, value in values.items():
                setattr(user, name, value)

    def void(self) -> list[str]:
        """The sessions whose tokens are void."""
        return [entry.subject for entry in self.app.extensions["revocations"].entries_after(0)[0]]

    def stored(self) -> list[ApiKey]:
        with self.app.extensions["database"].read() as session:
            return list(session.scalars(select(ApiKey)))

    def ask(
        self, method: str, path: str, json: object = None, *, by: str = ADA, key: bool = False, roles: str = "customer"
    ) -> TestResponse:
        with self.app.app_context(), self.app.extensions["database"].read() as session:
            token = self.app.extensions["access_tokens"].mint(
                session.get_one(User, by),
                session="key:k1" if key else "s1",
                amr=["pwd"],
                permissions=BUILT_IN[roles],
                auth_time=utc_now(),
            )
        headers = {"Authorization": f"Bearer {token}"}
        return self.app.test_client(use_cookies=False).open(path, method=method, json=json, headers=headers)

    def ask_internally(self, path: str, json: object, secret: str = SERVICE_SECRET) -> TestResponse:
        token = service_tokens.mint(secret, issuer="gateway", audience="user_service")
        headers = {"Authorization": f"Bearer {token}"}
        return self.app.test_client(use_cookies=False).post(f"/internal/api-keys/{path}", json=json, headers=headers)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    try:
        with postgres_server() as server:
            yield server.create_database("api_keys")
    except Unavailable as reason:
        pytest.skip(str(reason))


def built(url: str, directory: Path, **more: object) -> Generator[House]:
    given: dict[str, object] = {
        "database_url": url,
        "var_dir": directory,
        "jwt_secret_key": SECRET,
        "service_secret": SERVICE_SECRET,
    }
    app = create_app(load(UserSettings, "user_service", **given | more))
    database = app.extensions["database"]
    Base.metadata.create_all(database.engine)
    with database.write() as session:
        for user_id, name, roles in ((ADA, "ada", []), (BOB, "bob", []), (BOSS, "boss", ["admin"])):
            user = User(id=user_id, username=name, username_key=name, password_hash="", roles=["customer", *roles])
            session.add(user)
    yield House(app)
    Base.metadata.drop_all(database.engine)
    database.dispose()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    yield from built(f"sqlite:///{tmp_path}/users.db", tmp_path)


@pytest.fixture(params=["sqlite", "postgresql"])
def any_house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    on_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/users.db" if on_file else str(request.getfixturevalue("postgres_url"))
    yield from built(url, tmp_path)


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def test_a_key_is_exchanged_for_a_token_that_may_what_the_scopes_say_and_has_no_roles(any_house: House) -> None:
    key, text = any_house.make("orders:read", "profile:read")

    identity = any_house.exchange(text)

    assert (identity.user_id, identity.username, identity.key_id) == (ADA, "ada", key.id)
    assert (identity.permissions, identity.roles) == ({"orders:read", "profile:read"}, frozenset())
    assert (identity.session, identity.amr, identity.plan) == (f"key:{key.id}", {"api_key"}, "")


def test_what_is_kept_of_a_key_does_not_give_it_back(house: House) -> None:
    _, text = house.make()

    (stored,) = house.stored()

    assert (stored.beginning, stored.digest) == (beginning(text), digest(text))
    assert text not in str(vars(stored))


def test_a_token_of_a_key_lives_for_minutes_and_never_longer_than_the_key(house: House) -> None:
    with time_machine.travel(NOW, tick=False) as clock, house.app.app_context():
        _, long = house.make()
        _, short = house.make(expires_at=NOW + timedelta(seconds=400))
        first = [house.keys.exchange(text).expires_in for text in (long, short)]
        clock.shift(300)
        later = [house.keys.exchange(text).expires_in for text in (long, short)]

    assert (first, later) == ([300, 300], [300, 100])


def test_a_token_of_a_key_lives_no_longer_than_revocations_are_kept(tmp_path: Path) -> None:
    with contextmanager(built)(f"sqlite:///{tmp_path}/users.db", tmp_path, access_token_ttl=60) as house:
        _, text = house.make()

        with house.app.app_context():
            assert house.keys.exchange(text).expires_in == 60


def test_the_operator_says_how_many_keys_a_user_may_have(tmp_path: Path) -> None:
    with contextmanager(built)(f"sqlite:///{tmp_path}/users.db", tmp_path, api_keys_per_user=1) as house:
        house.make()

        with pytest.raises(TooManyApiKeys, match="No more than 1 API key"):
            house.make()


def test_a_key_may_never_more_than_its_owner_may_when_it_is_exchanged(house: House) -> None:
    _, text = house.keys.create(BOSS, "k", ["products:write", "orders:read"], permitted=BUILT_IN["admin"])
    before = house.exchange(text).permissions
    house.change_user(BOSS, roles=["customer"])

    assert (before, house.exchange(text).permissions) == ({"products:write", "orders:read"}, {"orders:read"})


def test_a_key_of_somebody_who_was_erased_is_refused(house: House) -> None:
    _, text = house.make()
    house.change_user(ADA, erased_at=utc_now())

    assert house.is_refused(text)


@pytest.mark.parametrize(
    "text", ["", "gk_", "x" * 300, "gk_qxjxwair_TCRDUkOnlpuPOa2i9me8B_XAPvWvbrKdUi0p5VMzgKU_A--T0g", "\0", "ключ"]
)
def test_what_is_no_key_of_ours_is_refused(house: House, text: str) -> None:
    assert house.is_refused(text)


def test_an_expired_key_is_refused(house: House) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        _, text = house.make(expires_at=NOW + timedelta(hours=1))
        clock.shift(3599)
        before = house.is_refused(text)
        clock.shift(1)

        assert (before, house.is_refused(text)) == (False, True)


def test_a_revoked_key_is_refused_and_its_tokens_are_void(any_house: House) -> None:
    key, text = any_house.make()

    any_house.keys.revoke(ADA, key.id, by=ADA)
    any_house.keys.revoke(ADA, key.id, by=ADA)

    assert any_house.is_refused(text)
    assert any_house.void() == [f"key:{key.id}"]
    assert any_house.keys.of(ADA) == []


def test_a_rotated_key_is_refused_at_once_and_the_new_one_has_the_same_terms(any_house: House) -> None:
    old, old_text = any_house.make("orders:read", plan="gold", expires_at=utc_now() + timedelta(days=1))

    new, text = any_house.keys.rotate(ADA, old.id)

    assert (any_house.is_refused(old_text), any_house.is_refused(text)) == (True, False)
    assert (new.name, new.scopes, new.plan, new.expires_at) == (old.name, old.scopes, old.plan, old.expires_at)
    assert any_house.void() == [f"key:{old.id}"]
    assert [key.id for key in any_house.keys.of(ADA)] == [new.id]


def test_with_an_overlap_both_keys_are_good_until_it_is_over(house: House) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        old, old_text = house.make()
        new, text = house.keys.rotate(ADA, old.id, overlap_s=600)
        shown = {key.id: key.replaced_by for key in house.keys.of(ADA)}
        clock.shift(599)
        during = house.is_refused(old_text), house.is_refused(text)
        clock.shift(1)

        assert (during, (house.is_refused(old_text), house.is_refused(text))) == ((False, False), (True, False))
        assert shown == {old.id: new.id, new.id: None}
        assert [key.id for key in house.keys.of(ADA)] == [new.id]


def test_an_overlap_makes_no_key_last_longer_than_it_was_to(house: House) -> None:
    end = utc_now() + timedelta(minutes=20)
    old, _ = house.make(expires_at=end)

    house.keys.rotate(ADA, old.id, overlap_s=86_400)

    assert {key.expires_at for key in house.stored()} == {end}


def test_a_key_that_was_replaced_or_has_ended_is_not_rotated_again(house: House) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        replaced, _ = house.make()
        house.keys.rotate(ADA, replaced.id, overlap_s=600)
        revoked, _ = house.make()
        house.keys.revoke(ADA, revoked.id, by=ADA)
        expired, _ = house.make(expires_at=NOW + timedelta(minutes=10))
        clock.shift(601)

        for key in (replaced, revoked, expired):
            with pytest.raises(NotActive):
                house.keys.rotate(ADA, key.id)


def test_scopes_are_some_of_what_the_owner_may(house: House) -> None:
    with pytest.raises(BeyondOwner, match="products:write"):
        house.make("orders:read", "products:write")


def test_there_are_at_most_fifty_keys_and_those_that_ended_do_not_count(any_house: House) -> None:
    keys = [any_house.make()[0] for _ in range(50)]
    with pytest.raises(TooManyApiKeys):
        any_house.make()
    with pytest.raises(TooManyApiKeys):
        any_house.keys.rotate(ADA, keys[0].id, overlap_s=600)

    any_house.keys.rotate(ADA, keys[0].id)
    any_house.keys.revoke(ADA, keys[1].id, by=ADA)
    any_house.make()

    assert len(any_house.keys.of(ADA)) == 50
    any_house.make(of=BOB)


def test_who_makes_keys_all_at_once_gets_no_more_of_them(any_house: House) -> None:
    for _ in range(48):
        any_house.make()

    def make(_: int) -> bool:
        try:
            any_house.make()
        except TooManyApiKeys:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(make, range(6)))

    assert sum(made) == 2


@pytest.mark.parametrize("seconds", [-1, 0, 299])
def test_a_key_ends_no_sooner_than_its_tokens(house: House, seconds: int) -> None:
    with time_machine.travel(NOW, tick=False), pytest.raises(EndsTooSoon):
        house.make(expires_at=NOW + timedelta(seconds=seconds))


def test_nobody_gets_at_the_keys_of_others(house: House) -> None:
    key, text = house.make()

    for attempt in (
        lambda: house.keys.rotate(BOB, key.id),
        lambda: house.keys.revoke(BOB, key.id, by=BOB),
        lambda: house.keys.change(BOB, key.id, by=BOB, name="mine"),
    ):
        with pytest.raises(UnknownApiKey):
            attempt()

    assert not house.is_refused(text)


def test_uses_are_added_up(any_house: House) -> None:
    key, _ = any_house.make()
    other, _ = any_house.make()

    any_house.keys.count_uses({key.id: 3, "gone": 7})
    any_house.keys.count_uses({key.id: 4})

    used = {each.id: (each.uses, each.last_used_at is not None) for each in any_house.stored()}
    assert used == {key.id: (7, True), other.id: (0, False)}


def test_keys_that_ended_a_month_ago_are_deleted(house: House) -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        revoked, _ = house.make()
        house.keys.revoke(ADA, revoked.id, by=ADA)
        house.make(expires_at=NOW + timedelta(minutes=10))
        lasting, _ = house.make()
        clock.shift(29 * 86_400)
        early = house.keys.sweep()
        clock.shift(2 * 86_400)

        assert (early, house.keys.sweep()) == (0, 2)
        assert [key.id for key in house.stored()] == [lasting.id]


def test_what_happens_to_keys_is_in_the_audit_log_without_the_key(house: House) -> None:
    key, text = house.make()
    new, _ = house.keys.rotate(ADA, key.id)
    house.keys.change(ADA, new.id, by=BOSS, plan="gold")
    house.keys.revoke(ADA, new.id, by=BOSS)

    entries, _ = house.app.extensions["audit"].page()

    assert [(entry.event, entry.actor, entry.subject, entry.details["key"]) for entry in entries] == [
        ("api_key.revoked", BOSS, ADA, new.id),
        ("api_key.changed", BOSS, ADA, new.id),
        ("api_key.rotated", ADA, ADA, key.id),
        ("api_key.created", ADA, ADA, key.id),
    ]
    assert not any(text in str(entry.details) or digest(text) in str(entry.details) for entry in entries)


def test_a_key_is_shown_once(house: House) -> None:
    made = house.ask("POST", "/users/api-keys", {"name": "export", "scopes": ["orders:read"]})
    listed = house.ask("GET", "/users/api-keys")
    rotated = house.ask("POST", f"/users/api-keys/{body(made)['id']}/rotate?overlap_s=600")

    assert made.status_code == rotated.status_code == 201
    assert not house.is_refused(body(made)["key"])
    assert not house.is_refused(body(rotated)["key"])
    assert body(listed) == {"items": [{name: value for name, value in body(made).items() if name != "key"}]}
    assert body(made)["beginning"] == body(made)["key"][:11]
    assert all(answer.headers["Cache-Control"] == "no-store" for answer in (made, listed, rotated))


NEW = {"name": "k", "scopes": ["orders:read"]}
WRONG: list[tuple[str, str, object, int, str]] = [
    ("POST", "/users/api-keys", {"name": "k"}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", {"name": "k", "scopes": []}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", {"name": "", "scopes": ["orders:read"]}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", {"name": "a\x00", "scopes": ["orders:read"]}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", {"name": "k", "scopes": ["*"]}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", {"name": "k", "scopes": ["users:write"]}, 403, "BEYOND_ONES_OWN"),
    ("POST", "/users/api-keys", NEW | {"user_id": BOB}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", NEW | {"plan": "gold"}, 403, "PERMISSION_REQUIRED"),
    ("POST", "/users/api-keys", NEW | {"expires_at": "2020-01-01T00:00:00Z"}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys", NEW | {"expires_at": "2090-01-01T00:00:00"}, 422, "VALIDATION_ERROR"),
    ("PATCH", "/users/api-keys/{key}", {"name": "k", "plan": "gold"}, 422, "VALIDATION_ERROR"),
    ("PATCH", "/users/api-keys/{key}", {"scopes": ["users:write"]}, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys/{key}/rotate?overlap_s=299", None, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys/{key}/rotate?overlap_s=86401", None, 422, "VALIDATION_ERROR"),
    ("POST", "/users/api-keys/{key}/rotate?overlap_s=-1", None, 422, "VALIDATION_ERROR"),
    ("GET", f"/users/{BOB}/api-keys", None, 403, "PERMISSION_REQUIRED"),
    ("PATCH", f"/users/{ADA}/api-keys/{{key}}", {"plan": "gold"}, 403, "PERMISSION_REQUIRED"),
    ("DELETE", f"/users/{ADA}/api-keys/{{key}}", None, 403, "PERMISSION_REQUIRED"),
    ("DELETE", f"/users/api-keys/{BOB}", None, 404, "API_KEY_NOT_FOUND"),
    ("DELETE", "/users/api-keys/nonsense", None, 404, "NOT_FOUND"),
]


@pytest.mark.parametrize(("method", "path", "json", "status", "code"), WRONG)
def test_what_is_wrong_is_told(house: House, method: str, path: str, json: object, status: int, code: str) -> None:
    key, text = house.make()

    answer = house.ask(method, path.format(key=key.id), json)

    assert (answer.status_code, body(answer)["code"]) == (status, code)
    assert [(stored.plan, stored.scopes) for stored in house.stored()] == [("", ["orders:read"])]
    assert not house.is_refused(text)


def test_a_key_makes_and_sees_no_keys(house: House) -> None:
    key, _ = house.make()
    asked = [
        house.ask("GET", "/users/api-keys", key=True),
        house.ask("POST", "/users/api-keys", NEW, key=True),
        house.ask("POST", f"/users/api-keys/{key.id}/rotate", key=True),
        house.ask("DELETE", f"/users/api-keys/{key.id}", key=True),
    ]

    assert [(answer.status_code, body(answer)["code"]) for answer in asked] == [(403, "SESSION_REQUIRED")] * 4


def test_administrators_see_the_keys_of_all_set_plan_and_expiry_and_revoke_them(house: House) -> None:
    key, text = house.make()
    path, ask = f"/users/{ADA}/api-keys", partial(house.ask, by=BOSS, roles="admin")
    in_an_hour = (utc_now() + timedelta(hours=1)).isoformat()

    listed = ask("GET", path)
    changed = ask("PATCH", f"{path}/{key.id}", {"plan": "gold", "expires_at": in_an_hour})
    kept = ask("PATCH", f"{path}/{key.id}", {"name": "theirs"})
    plan = house.exchange(text).plan
    endless = ask("PATCH", f"{path}/{key.id}", {"expires_at": None})
    gone = ask("DELETE", f"{path}/{key.id}")

    assert [item["id"] for item in body(listed)["items"]] == [key.id]
    assert (body(changed)["plan"], plan) == ("gold", "gold")
    assert body(kept)["expires_at"] == body(changed)["expires_at"] != body(endless)["expires_at"] is None
    assert (gone.status_code, house.is_refused(text)) == (204, True)


def test_the_gateway_exchanges_keys_and_tells_their_uses(house: House) -> None:
    key, text = house.make(plan="gold")

    exchanged = house.ask_internally("exchange", {"key": text})
    refused = house.ask_internally("exchange", {"key": new_key()})
    told = house.ask_internally("usage", {"counts": {key.id: 5}})

    assert {name: body(exchanged)[name] for name in ("expires_in", "key_id", "plan")} == {
        "expires_in": 300, "key_id": key.id, "plan": "gold",
    }  # fmt: skip
    assert (refused.status_code, body(refused)["code"]) == (401, "INVALID_API_KEY")
    assert (told.status_code, house.stored()[0].uses) == (204, 5)


@pytest.mark.parametrize(("path", "json"), [("exchange", {"key": "k"}), ("usage", {"counts": {}})])
def test_nobody_but_our_own_services_exchanges_keys(house: House, path: str, json: object) -> None:
    forged = house.ask_internally(path, json, secret="x" * 48)
    by_user = house.ask("POST", f"/internal/api-keys/{path}", json, by=BOSS, roles="admin")

    assert [forged.status_code, by_user.status_code] == [401, 401]


@pytest.mark.parametrize("counts", [{"k": 0}, {"k": -1}, {"k": "x"}, {"k": 10**12}])
def test_uses_are_counts(house: House, counts: object) -> None:
    assert house.ask_internally("usage", {"counts": counts}).status_code == 422
