"""Logging in, second factors and passwords over HTTP, and what a stranger can learn from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
import time_machine
from apiflask import APIFlask
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from pyotp.totp import TOTP
from sqlalchemy import event, select, update
from werkzeug.test import TestResponse

from common import migrations
from common.db import Database
from common.settings import load
from user_service import create_app
from user_service.access_tokens import AccessTokens
from user_service.settings import UserSettings
from user_service.tables import AuditEntry, User
from user_service.users import Users

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RIGHT, WRONG = "password123", "password124"
HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"
MakeApp = Callable[..., APIFlask]


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    apps: list[APIFlask] = []

    def make(**given: object) -> APIFlask:
        own: dict[str, object] = {"database_url": f"sqlite:///{tmp_path}/users.db", "var_dir": tmp_path}
        own |= {"jwt_secret_key": None, "argon2_memory_kib": 8, "argon2_passes": 1}
        app = create_app(load(UserSettings, "user_service", **own | given))
        migrations.upgrade(app.extensions["database"], Path(app.root_path) / "migrations")
        apps.append(app)
        return app

    yield make
    for app in apps:
        app.extensions["database"].dispose()


@pytest.fixture
def app(make_app: MakeApp) -> APIFlask:
    return make_app()


@pytest.fixture
def client(app: APIFlask) -> FlaskClient:
    return app.test_client(use_cookies=False)


class Person:
    """Somebody with an account, who logs in from `address`."""

    def __init__(self, client: FlaskClient, name: str = "ada", address: str = HOME) -> None:
        self.client, self.name, self.address = client, name, address
        self.headers: dict[str, str] = {}
        self.refresh_token = self.secret = ""
        self.codes: list[str] = []

    def register(self) -> Person:
        assert self._send("POST", "/users/register", {"username": self.name, "password": RIGHT}).status_code == 201
        return self

    def log_in(self, password: str = RIGHT, otp: str | None = None) -> TestResponse:
        """The answer; whatever comes next has the token of it, if there is one."""
        credentials = {"username": self.name, "password": password}
        answer = self._send("POST", "/users/login", credentials if otp is None else credentials | {"otp": otp})
        if answer.status_code == 200:
            self.headers = {"Authorization": f"Bearer {body(answer)['access_token']}"}
            self.refresh_token = body(answer)["refresh_token"]
        return answer

    def refresh(self) -> TestResponse:
        return self._send("POST", "/users/refresh", {"refresh_token": self.refresh_token})

    def get(self, path: str) -> TestResponse:
        return self._send("GET", path)

    def post(self, path: str, **fields: object) -> TestResponse:
        return self._send("POST", path, fields)

    def delete(self, path: str, **fields: object) -> TestResponse:
        return self._send("DELETE", path, fields)

    def set_up(self) -> Person:
        """Log in and make a second factor active, with the code of one step ago."""
        self.log_in()
        self.secret = body(self.post("/users/second-factor", password=RIGHT))["secret"]
        self.codes = body(self.post("/users/second-factor/confirm", otp=self.code(-1)))["recovery_codes"]
        return self

    def code(self, steps: int = 0) -> str:
        return TOTP(self.secret).at(datetime.now(UTC), counter_offset=steps)

    def _send(self, method: str, path: str, fields: dict[str, Any] | None = None) -> TestResponse:
        headers = {"X-Forwarded-For": self.address, **self.headers}
        return self.client.open(path, method=method, json=fields, headers=headers)


@pytest.fixture
def ada(client: FlaskClient) -> Person:
    return Person(client).register()


def body(answer: TestResponse) -> dict[str, Any]:
    assert isinstance(answer.json, dict)
    return answer.json


def verdict(answer: TestResponse) -> tuple[int, str]:
    return answer.status_code, body(answer).get("code", "") if answer.data else ""


def amr(answer: TestResponse) -> list[str]:
    claims = jwt.decode(body(answer)["access_token"], options={"verify_signature": False})
    names: list[str] = claims["amr"]
    return names


def change(app: APIFlask, name: str, **values: object) -> None:
    database: Database = app.extensions["database"]
    with database.write() as session:
        session.execute(update(User).where(User.username_key == name).values(values))


def recorded(app: APIFlask) -> list[tuple[str, str]]:
    database: Database = app.extensions["database"]
    with database.read() as session:
        entries = session.scalars(select(AuditEntry).order_by(AuditEntry.seq)).all()
    return [(entry.event, entry.outcome) for entry in entries]


# What a stranger can learn

UNKNOWN: dict[str, dict[str, str]] = {
    "a name that nobody has": {"username": "nobody"},
    "a wrong password": {"username": "ada"},
    "a wrong password, the name in another spelling": {"username": "ADA"},
    "a wrong password with a code for nothing": {"username": "ada", "otp": "123456"},
    "a wrong password and no second factor": {"username": "bea"},
    "a wrong password and a second factor": {"username": "bea", "otp": "RIGHT"},
    "the right password of an erased account": {"username": "eve", "password": RIGHT},
    "a wrong password and an old hash": {"username": "old"},
    "an empty password": {"username": "ada", "password": ""},
}
"""Attempts that have to look alike."""


def test_a_name_that_nobody_can_have_is_told_like_a_wrong_password(ada: Person) -> None:
    answers = [Person(ada.client, name).log_in(WRONG) for name in ("ada", "", "ad\0a", "' OR '1'='1", "x" * 1024)]

    told = [body(answer) | {"request_id": ""} for answer in answers]
    assert told == [told[0]] * 5


class Street:
    """Everybody of `UNKNOWN`, and what one attempt looks like from outside and inside."""

    def __init__(self, app: APIFlask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self._client = client
        for name in ("ada", "eve", "old"):
            Person(client, name).register()
        self._bea = Person(client, "bea").register().set_up()
        change(app, "eve", erased_at=NOW)
        change(app, "old", password_hash=PasswordHasher(1, 16, 1).hash(RIGHT))
        self._hashes = self._statements = 0
        verify = PasswordHasher.verify

        def counting(hasher: PasswordHasher, hash: str | bytes, password: str | bytes) -> bool:
            self._hashes += 1
            return verify(hasher, hash, password)

        monkeypatch.setattr(PasswordHasher, "verify", counting)
        event.listen(app.extensions["database"].engine, "before_cursor_execute", self._count)

    def attempt(self, given: dict[str, str], address: str = ELSEWHERE) -> tuple[object, ...]:
        """Status, fields and body of the answer, hashes computed and statements executed."""
        fields = {"password": WRONG, **given}
        fields |= {"otp": self._bea.code()} if fields.get("otp") == "RIGHT" else {}
        self._hashes = self._statements = 0
        answer = self._client.post("/users/login", json=fields, headers={"X-Forwarded-For": address})
        headers = sorted((name, value) for name, value in answer.headers if name != "X-Request-ID")
        told = body(answer) | {"request_id": ""}
        return answer.status_code, headers, told, self._hashes, self._statements

    def _count(self, *_: object) -> None:
        self._statements += 1


@pytest.fixture
def street(app: APIFlask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> Street:
    street = Street(app, client, monkeypatch)
    street.attempt({"username": "first"}, "203.0.113.99")  # the first of all makes counters
    return street


@pytest.mark.parametrize("given", UNKNOWN.values(), ids=UNKNOWN)
def test_whether_a_name_exists_shows_neither_in_the_answer_nor_in_the_work(
    street: Street, given: dict[str, str]
) -> None:
    nobody = street.attempt({"username": "somebody-else"}, "203.0.113.1")

    attempt = street.attempt(given, "203.0.113.2")

    assert attempt == nobody
    assert (attempt[0], attempt[3]) == (401, 1)


@pytest.mark.parametrize("password", [WRONG, RIGHT])
@pytest.mark.parametrize("given", UNKNOWN.values(), ids=UNKNOWN)
def test_nor_does_it_while_attempts_have_to_wait(street: Street, given: dict[str, str], password: str) -> None:
    nobody, somebody = {"username": "somebody-else"}, given | {"password": password}
    for _ in range(5):
        street.attempt(nobody, "203.0.113.1")
        street.attempt(given, "203.0.113.2")

    attempt = street.attempt(somebody, "203.0.113.2")

    assert attempt == street.attempt(nobody | {"password": password}, "203.0.113.1")
    assert (attempt[0], attempt[3]) == (429, 0)


def test_a_wrong_code_is_told_like_a_wrong_password(client: FlaskClient) -> None:
    bea = Person(client, "bea").register().set_up()

    wrong_code, wrong_password = bea.log_in(otp="000000"), bea.log_in(WRONG)

    assert verdict(wrong_code) == (401, "WRONG_CREDENTIALS")
    assert body(wrong_code) | {"request_id": ""} == body(wrong_password) | {"request_id": ""}


# Waiting


def test_after_five_failures_the_right_password_has_to_wait_too(ada: Person, clock: time_machine.Traveller) -> None:
    failures = [verdict(ada.log_in(WRONG)) for _ in range(5)]
    blocked = ada.log_in()
    clock.shift(1)

    assert failures == [(401, "WRONG_CREDENTIALS")] * 5
    assert verdict(blocked) == (429, "LOGIN_BLOCKED")
    assert blocked.headers["Retry-After"] == "1"
    assert ada.log_in().status_code == 200


def test_numbers_of_the_guard_are_settings(make_app: MakeApp, clock: time_machine.Traveller) -> None:
    client = make_app(login_failures_free=1, login_failures_address=3, login_lock_max_s=2).test_client()
    ada = Person(client).register()

    assert [ada.log_in(WRONG).status_code for _ in range(2)] == [401, 429]
    clock.shift(1)
    ada.log_in(WRONG)
    clock.shift(1)
    assert verdict(ada.log_in()) == (429, "LOGIN_BLOCKED")
    clock.shift(1)
    ada.log_in(WRONG)
    assert ada.log_in().headers["Retry-After"] == "2"  # and not 4
    assert Person(client, "nobody").log_in(WRONG).status_code == 429  # the third from this address


def test_others_cannot_lock_the_owner_out_of_where_she_logs_in(client: FlaskClient, ada: Person) -> None:
    ada.log_in()
    mallory = Person(client, address=ELSEWHERE)
    for _ in range(6):
        mallory.log_in(WRONG)

    assert verdict(mallory.log_in()) == (429, "LOGIN_BLOCKED")
    assert ada.log_in().status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "fields", "code"),
    [
        ("post", "/users/password", {"current_password": WRONG, "new_password": "password456"}, "WRONG_PASSWORD"),
        ("post", "/users/second-factor", {"password": WRONG}, "WRONG_PASSWORD"),
        ("post", "/users/second-factor/confirm", {"otp": "000000"}, "WRONG_OTP"),
    ],
)
def test_guessing_is_stopped_for_who_holds_a_token_too(
    ada: Person, method: str, path: str, fields: dict[str, object], code: str
) -> None:
    ada.log_in()
    ada.post("/users/second-factor", password=RIGHT)

    attempts = [verdict(getattr(ada, method)(path, **fields)) for _ in range(6)]

    assert attempts == [(403, code)] * 5 + [(429, "LOGIN_BLOCKED")]


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("post", "/users/second-factor/recovery-codes", {"otp": "000000"}),
        ("delete", "/users/second-factor", {"password": RIGHT, "otp": "000000"}),
    ],
)
def test_guessing_codes_is_stopped_for_who_holds_a_token_too(
    ada: Person, method: str, path: str, fields: dict[str, object]
) -> None:
    ada.set_up()

    attempts = [verdict(getattr(ada, method)(path, **fields)) for _ in range(6)]

    assert attempts == [(403, "WRONG_OTP")] * 5 + [(429, "LOGIN_BLOCKED")]


def test_who_knows_the_password_cannot_guess_codes_without_end(ada: Person) -> None:
    ada.set_up()
    mallory = Person(ada.client, address=ELSEWHERE)

    answers: list[int] = []
    for number in range(6):
        mallory.log_in()  # the right password alone does not begin the count anew
        answers.append(mallory.log_in(otp=f"00000{number}").status_code)

    assert answers == [401] * 5 + [429]


# The second factor


def test_a_second_factor_is_set_up_and_then_asked_for(ada: Person) -> None:
    ada.log_in()
    before = body(ada.get("/users/second-factor"))

    enrolment = ada.post("/users/second-factor", password=RIGHT)
    ada.secret = body(enrolment)["secret"]
    not_yet = ada.log_in()
    confirmation = ada.post("/users/second-factor/confirm", otp=ada.code(-1))

    assert before == {"is_active": False, "recovery_codes_left": 0}
    assert (enrolment.status_code, set(body(enrolment))) == (200, {"secret", "uri", "qr_svg"})
    assert (not_yet.status_code, amr(not_yet)) == (200, ["pwd"])
    assert (confirmation.status_code, len(body(confirmation)["recovery_codes"])) == (200, 10)
    assert {answer.headers["Cache-Control"] for answer in (enrolment, confirmation)} == {"no-store"}
    assert body(ada.get("/users/second-factor")) == {"is_active": True, "recovery_codes_left": 10}
    assert verdict(ada.log_in()) == (401, "SECOND_FACTOR_REQUIRED")
    assert verdict(ada.log_in(otp="")) == (401, "SECOND_FACTOR_REQUIRED")
    assert ada.log_in(otp=ada.code()).status_code == 200


def test_the_token_says_how_one_was_recognised(ada: Person) -> None:
    ada.set_up()

    assert amr(ada.log_in(otp=ada.code())) == ["pwd", "otp"]
    assert amr(ada.refresh()) == ["pwd", "otp"]
    assert amr(ada.log_in(otp=ada.codes[0])) == ["pwd", "otp"]


def test_a_code_opens_once(ada: Person, clock: time_machine.Traveller) -> None:
    ada.set_up()
    code = ada.code()

    answers = [ada.log_in(otp=code).status_code, ada.log_in(otp=code).status_code]
    clock.shift(29)
    answers.append(ada.log_in(otp=code).status_code)

    assert answers == [200, 401, 401]


def test_a_recovery_code_opens_once(ada: Person) -> None:
    ada.set_up()

    answers = [ada.log_in(otp=ada.codes[0]).status_code for _ in range(2)]

    assert answers == [200, 401]
    ada.log_in(otp=ada.codes[1])
    assert body(ada.get("/users/second-factor"))["recovery_codes_left"] == 8


def test_a_code_that_came_with_a_wrong_password_is_not_used(ada: Person) -> None:
    ada.set_up()

    ada.log_in(WRONG, otp=ada.code())

    assert ada.log_in(otp=ada.code()).status_code == 200


def test_a_code_for_nothing_does_no_harm(ada: Person) -> None:
    answer = ada.log_in(otp="123456")

    assert (answer.status_code, amr(answer)) == (200, ["pwd"])


def test_a_confirmation_ends_all_other_sessions_and_strengthens_this_one(client: FlaskClient, ada: Person) -> None:
    other = Person(client)
    other.log_in()

    ada.set_up()

    assert verdict(other.refresh()) == (401, "INVALID_REFRESH_TOKEN")
    assert amr(ada.refresh()) == ["pwd", "otp"]


def test_it_is_removed_with_password_and_code(ada: Person) -> None:
    ada.set_up()

    wrong_password = ada.delete("/users/second-factor", password=WRONG, otp=ada.code())
    wrong_code = ada.delete("/users/second-factor", password=RIGHT, otp="000000")
    removed = ada.delete("/users/second-factor", password=RIGHT, otp=ada.code())

    assert verdict(wrong_password) == (403, "WRONG_PASSWORD")
    assert verdict(wrong_code) == (403, "WRONG_OTP")
    assert (removed.status_code, removed.data) == (204, b"")
    assert ada.log_in().status_code == 200


def test_who_lost_the_device_removes_it_with_a_recovery_code(ada: Person) -> None:
    ada.set_up()

    assert ada.delete("/users/second-factor", password=RIGHT, otp=ada.codes[9]).status_code == 204


def test_new_recovery_codes_need_a_code(ada: Person) -> None:
    ada.set_up()

    refused = ada.post("/users/second-factor/recovery-codes", otp="000000")
    renewed = ada.post("/users/second-factor/recovery-codes", otp=ada.code())

    assert verdict(refused) == (403, "WRONG_OTP")
    assert set(body(renewed)["recovery_codes"]).isdisjoint(ada.codes)
    assert verdict(ada.log_in(otp=ada.codes[0])) == (401, "WRONG_CREDENTIALS")


@pytest.mark.parametrize(
    ("is_active", "method", "path", "fields", "code"),
    [
        (True, "post", "/users/second-factor", {"password": RIGHT}, "SECOND_FACTOR_ACTIVE"),
        (True, "post", "/users/second-factor/confirm", {"otp": "CODE"}, "SECOND_FACTOR_ACTIVE"),
        (False, "post", "/users/second-factor/confirm", {"otp": "123456"}, "SECOND_FACTOR_NOT_ENROLLED"),
        (False, "post", "/users/second-factor/recovery-codes", {"otp": "123456"}, "SECOND_FACTOR_NOT_ENROLLED"),
        (False, "delete", "/users/second-factor", {"password": RIGHT, "otp": "1"}, "SECOND_FACTOR_NOT_ENROLLED"),
    ],
)
def test_what_does_not_fit_the_state_is_a_conflict(
    ada: Person, is_active: bool, method: str, path: str, fields: dict[str, object], code: str
) -> None:
    ada.set_up() if is_active else ada.log_in()
    fields = {name: ada.code() if value == "CODE" else value for name, value in fields.items()}

    assert verdict(getattr(ada, method)(path, **fields)) == (409, code)


SECOND_FACTOR_ROUTES = [
    ("GET", "/users/second-factor"),
    ("POST", "/users/second-factor"),
    ("DELETE", "/users/second-factor"),
    ("POST", "/users/second-factor/confirm"),
    ("POST", "/users/second-factor/recovery-codes"),
]


@pytest.mark.parametrize(("method", "path"), [*SECOND_FACTOR_ROUTES, ("POST", "/users/password")])
def test_an_api_key_can_do_nothing_of_this(
    app: APIFlask, client: FlaskClient, ada: Person, method: str, path: str
) -> None:
    users: Users = app.extensions["users"]
    tokens: AccessTokens = app.extensions["access_tokens"]
    owner = users.named(ada.name)
    assert owner is not None
    with app.app_context():
        token = tokens.mint(owner, session="key:1", amr=["api_key"], permissions=["profile:write"], auth_time=NOW)

    answer = client.open(path, method=method, headers={"Authorization": f"Bearer {token}"})

    assert verdict(answer) == (403, "SESSION_REQUIRED")


@pytest.mark.parametrize(("method", "path"), SECOND_FACTOR_ROUTES)
def test_without_a_token_there_is_only_401(client: FlaskClient, method: str, path: str) -> None:
    assert verdict(client.open(path, method=method)) == (401, "TOKEN_REQUIRED")


@pytest.mark.parametrize(
    ("method", "path", "fields"),
    [
        ("post", "/users/second-factor", {}),
        ("post", "/users/second-factor", {"password": RIGHT, "secret": "JBSWY3DPEHPK3PXP"}),
        ("post", "/users/second-factor/confirm", {"otp": 123456}),
        ("post", "/users/second-factor/confirm", {"otp": "1" * 65}),
        ("post", "/users/second-factor/recovery-codes", {"otp": None}),
        ("delete", "/users/second-factor", {"otp": "123456"}),
        ("delete", "/users/second-factor", {"password": RIGHT}),
    ],
)
def test_malformed_bodies_are_refused_by_field(ada: Person, method: str, path: str, fields: dict[str, object]) -> None:
    ada.log_in()

    assert verdict(getattr(ada, method)(path, **fields)) == (422, "VALIDATION_ERROR")


def test_each_operation_documents_its_errors_and_that_it_needs_a_token(client: FlaskClient) -> None:
    paths = body(client.get("/openapi.json"))["paths"]

    operations = {
        (method.upper(), path): (set(operation["responses"]), "security" in operation)
        for path, item in paths.items()
        for method, operation in item.items()
        if operation["tags"] == ["second factor"]
    }

    with_body = {"400", "401", "403", "409", "413", "415", "422", "429", "503"}
    assert operations == {
        ("GET", "/users/second-factor"): ({"200", "401", "403", "503"}, True),
        ("DELETE", "/users/second-factor"): ({"204"} | with_body, True),
        **{route: ({"200"} | with_body, True) for route in SECOND_FACTOR_ROUTES if route[0] == "POST"},
    }


# Passwords


def test_a_new_password_ends_all_other_sessions(client: FlaskClient, ada: Person) -> None:
    other = Person(client)
    other.log_in()
    ada.log_in()

    changed = ada.post("/users/password", current_password=RIGHT, new_password="password456")

    assert changed.status_code == 204
    assert verdict(other.refresh()) == (401, "INVALID_REFRESH_TOKEN")
    assert ada.refresh().status_code == 200
    assert ada.log_in("password456").status_code == 200


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("short", "PASSWORD_TOO_SHORT"),
        ("eleven chrs", "PASSWORD_TOO_SHORT"),
        ("LETMEIN-2026", "PASSWORD_DENIED"),
        ("ada.lovelace", "PASSWORD_DENIED"),
        ("x" * 129, "VALIDATION_ERROR"),
    ],
)
def test_a_password_that_may_not_be_chosen_is_refused_by_the_rule(
    make_app: MakeApp, tmp_path: Path, password: str, code: str
) -> None:
    (tmp_path / "denied").write_text("letmein-2026\n")
    client = make_app(password_min_length=12, password_deny_list=tmp_path / "denied").test_client()
    name, good = "ada.lovelace", "nine tall giraffes"
    client.post("/users/register", json={"username": name, "password": good})
    ada = Person(client, name)
    ada.log_in(good)

    registered = client.post("/users/register", json={"username": "Ada.Lovelace", "password": password})
    changed = ada.post("/users/password", current_password=good, new_password=password)

    assert (verdict(registered), verdict(changed)) == ((422, code), (422, code))
    assert body(registered)["errors"][0]["field"] == "password"
    assert body(changed)["errors"][0]["field"] == "new_password"


def test_the_document_says_how_long_passwords_are(client: FlaskClient) -> None:
    schemas = body(client.get("/openapi.json"))["components"]["schemas"]

    password = schemas["Registration"]["properties"]["password"]

    assert (password["minLength"], password["maxLength"]) == (8, 128)


# The record


def test_each_step_leaves_an_entry_that_holds_no_secret(
    app: APIFlask, ada: Person, clock: time_machine.Traveller, capfd: pytest.CaptureFixture[str]
) -> None:
    ada.log_in(WRONG)
    ada.set_up()
    ada.log_in()
    ada.log_in(otp="000000")
    ada.log_in(otp=ada.codes[0])
    ada.post("/users/password", current_password=WRONG, new_password="password456")
    ada.post("/users/password", current_password=RIGHT, new_password="password456")
    clock.shift(60)
    ada.post("/users/second-factor/recovery-codes", otp=ada.code(-1))
    ada.delete("/users/second-factor", password="password456", otp=ada.code())
    for _ in range(6):
        ada.log_in("password789")

    events = [entry for entry in recorded(app) if not entry[0].startswith("session.")]
    assert events == [
        ("login.failed", "failure"),
        ("login.succeeded", "success"),
        ("second_factor.enrolled", "success"),
        ("second_factor.confirmed", "success"),
        ("login.failed", "failure"),
        ("login.failed", "failure"),
        ("recovery_code.used", "success"),
        ("login.succeeded", "success"),
        ("password.changed", "failure"),
        ("password.changed", "success"),
        ("recovery_codes.renewed", "success"),
        ("second_factor.removed", "success"),
        *[("login.failed", "failure")] * 5,
        ("login.blocked", "failure"),
    ]
    database: Database = app.extensions["database"]
    with database.read() as session:
        kept = str([vars(entry) for entry in session.scalars(select(AuditEntry))])
    output = kept + "".join(capfd.readouterr())
    secrets = (RIGHT, WRONG, "password456", "password789", ada.secret, *ada.codes, ada.code(), HOME)
    assert [secret for secret in secrets if secret in output] == []
