"""API keys at the gateway: exchanged once in minutes, refused at once when revoked, never sent on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flask import Flask

from common import key_format
from common.identity import Identity
from common.internal import Internal, InternalRefused, InternalUnavailable, Json
from common.keys import KeysUnavailable, SharedSecret
from common.problems import Forbidden, TooManyRequests, Unauthorized
from common.tokens import AUDIENCE, ISSUER, Verifier
from deploy.local.valkey import Valkey
from gateway.api_keys import GUESSES_S, MOST_GUESSES, MOST_KNOWN, ApiKeys
from gateway.exchange import Answer, Exchange
from gateway.forwarding import outgoing_fields
from gateway.policies.cached import cached
from gateway.policies.identity import require_jwt
from tests.support import tokens
from tests.support.ports import free_port
from tests.unit import parts

SECRET = tokens.SharedSecret.generate()
KEY = "gk_qxjxwair_TCRDUkOnlpuPOa2i9me8B_XAPvWvbrKdUi0p5VMzgKU_A--T0g"
OTHER = "gk_j56jnon7_5ZoW4Oi5L9jN4JB-WvHsO8FnzltXBFyet0_4xxNl_58_Hy_l4Q"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


class UserService(Internal):
    """Knows the keys that it is given, and answers as user_service does; `trouble` is raised instead of an answer."""

    def __init__(self, *keys: str, lifetime_s: int = 300) -> None:
        super().__init__("http://127.0.0.1:1", SECRET.value, me="gateway", audience="user_service")
        self.ids = {key: f"k{number}" for number, key in enumerate(keys, 1)}
        self.permissions = ["orders:read"]
        self.lifetime_s = lifetime_s
        self.exchanged: list[str] = []
        self.counts: list[Json] = []
        self.trouble: Exception | None = None
        self.generation = 0
        self.before_answer: Callable[[], object] = lambda: None

    def post(self, path: str, body: Json, *, timeout_s: float | None = None) -> Json:
        if path.endswith("/usage"):
            if self.trouble:
                raise self.trouble
            self.counts.append(body)
            return {}
        key = str(body["key"])
        self.exchanged.append(key)
        self.before_answer()
        if self.trouble:
            raise self.trouble
        if key not in self.ids:
            raise InternalRefused(401, "INVALID_API_KEY")
        claims = tokens.claims(
            "u1", iss=ISSUER, aud=AUDIENCE, sid=f"key:{self.ids[key]}", amr=["api_key"], plan="gold",
            permissions=self.permissions, gen=self.generation, lifetime_s=self.lifetime_s,
        )  # fmt: skip
        return {"access_token": SECRET.sign(claims), "expires_in": self.lifetime_s, "key_id": self.ids[key]}


@dataclass
class Revoked:
    """The sessions whose tokens are void, and up to which generation all are."""

    sessions: set[str] = field(default_factory=set[str])
    generation: int = 0
    is_trusted: bool = True

    def is_revoked(self, identity: Identity) -> bool:
        return identity.session in self.sessions or identity.generation < self.generation


@dataclass
class World:
    """The gateway's end, user_service, and what was revoked; `now` is a clock that stands still."""

    users: UserService
    most_known: int = MOST_KNOWN
    revoked: Revoked = field(default_factory=Revoked)
    now: float = 1000.0
    renewals: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    def __post_init__(self) -> None:
        self.verifier = Verifier(Flask("test"), SharedSecret(SECRET.value), revoked=self.revoked)
        self.keys = ApiKeys(
            self.users,
            self.verifier,
            most_known=self.most_known,
            clock=lambda: self.now,
            spawn=self.renewals.append,
        )

    def outcome(self, key: str = KEY) -> str:
        try:
            return self.keys.exchange(key)[1].key_id
        except Unauthorized as refused:
            return refused.code
        except KeysUnavailable:
            return "away"

    def renew(self) -> int:
        """Do what was begun beside requests; how much that was."""
        begun = len(self.renewals)
        while self.renewals:
            self.renewals.pop()()
        return begun


def test_a_key_is_exchanged_once_for_as_long_as_the_token_lasts() -> None:
    world = World(UserService(KEY))

    first, _ = world.keys.exchange(KEY)
    world.now += 269
    again, identity = world.keys.exchange(KEY)

    assert (first, world.users.exchanged, world.renew()) == (again, [KEY], 0)
    assert (identity.key_id, identity.plan, identity.permissions) == ("k1", "gold", {"orders:read"})


def test_shortly_before_its_end_a_token_is_renewed_once_and_nobody_waits_for_it() -> None:
    world = World(UserService(KEY))
    world.keys.exchange(KEY)
    world.now += 271

    outcomes = [world.outcome() for _ in range(3)]
    asked_meanwhile = len(world.users.exchanged)
    renewals = world.renew()
    world.now += 200

    assert (outcomes, asked_meanwhile, renewals) == (["k1"] * 3, 1, 1)
    assert (world.outcome(), world.renew()) == ("k1", 0)


def test_what_has_no_right_checksum_is_refused_without_asking() -> None:
    world = World(UserService(KEY))

    assert [world.outcome(key) for key in ("", "x", KEY[:-1] + "!", "Schlüssel")] == ["INVALID_API_KEY"] * 4
    assert world.users.exchanged == []


def test_a_refused_key_is_not_asked_about_again_for_ten_seconds() -> None:
    world = World(UserService(KEY))

    outcomes = [world.outcome(OTHER) for _ in range(5)]
    world.now += 9.9
    outcomes.append(world.outcome(OTHER))
    asked = len(world.users.exchanged)
    world.now += 0.2
    world.users.ids[OTHER] = "k2"

    assert (outcomes, asked) == (["INVALID_API_KEY"] * 6, 1)
    assert world.outcome(OTHER) == "k2"


def test_a_revoked_key_is_refused_though_its_token_is_kept() -> None:
    world = World(UserService(KEY))
    world.keys.exchange(KEY)

    world.revoked.sessions.add("key:k1")
    del world.users.ids[KEY]

    assert [world.outcome() for _ in range(3)] == ["INVALID_API_KEY"] * 3
    assert world.users.exchanged == [KEY, KEY]


def test_a_key_that_is_revoked_while_it_is_exchanged_is_refused() -> None:
    world = World(UserService(KEY))
    world.revoked.sessions.add("key:k1")

    assert world.outcome() == "INVALID_API_KEY"


def test_when_the_owner_has_got_other_permissions_a_void_token_is_exchanged_for_another() -> None:
    world = World(UserService(KEY))
    old, _ = world.keys.exchange(KEY)

    world.users.permissions = []
    world.users.generation = world.revoked.generation = 1
    new, identity = world.keys.exchange(KEY)

    assert (new != old, identity.permissions) == (True, frozenset())


def test_while_user_service_is_away_known_keys_go_on_and_others_wait() -> None:
    world = World(UserService(KEY, OTHER))
    world.keys.exchange(KEY)
    world.users.trouble = InternalUnavailable("ConnectionError")
    world.now += 299

    outcomes = [world.outcome(KEY), world.outcome(OTHER), world.outcome(OTHER)]
    world.renew()

    assert outcomes == ["k1", "away", "away"]
    assert world.users.exchanged == [KEY, OTHER]  # not for each request, and a renewal waits as well
    world.now += 2
    assert world.outcome(KEY) == "away"
    world.users.trouble = None
    world.now += 2
    assert [world.outcome(KEY), world.outcome(OTHER)] == ["k1", "k2"]


@pytest.mark.parametrize(
    "trouble",
    [InternalRefused(401, "INVALID_TOKEN"), InternalRefused(422, "VALIDATION_ERROR"), InternalRefused(404, "")],
)
def test_that_we_are_refused_ourselves_does_not_make_a_key_bad(trouble: Exception) -> None:
    world = World(UserService(KEY))
    world.users.trouble = trouble

    assert world.outcome() == "away"
    world.users.trouble = None
    assert world.outcome() == "k1"


def test_requests_with_the_same_new_key_ask_once_and_share_the_outcome() -> None:
    world = World(UserService(KEY))
    all_wait = threading.Barrier(2)

    world.users.before_answer = lambda: all_wait.wait(5)
    with ThreadPoolExecutor(8) as pool:
        outcomes = [pool.submit(world.outcome) for _ in range(8)]
        all_wait.wait(5)

        assert [outcome.result(5) for outcome in outcomes] == ["k1"] * 8
    assert world.users.exchanged == [KEY]


def test_requests_that_waited_for_a_refusal_get_one_each() -> None:
    world = World(UserService())
    all_wait = threading.Barrier(2)
    world.users.before_answer = lambda: all_wait.wait(5)

    with ThreadPoolExecutor(4) as pool:
        outcomes = [pool.submit(world.outcome) for _ in range(4)]
        all_wait.wait(5)

        assert [outcome.result(5) for outcome in outcomes] == ["INVALID_API_KEY"] * 4


def test_no_more_keys_are_remembered_than_allowed() -> None:
    keys = [key_format.new_key() for _ in range(4)]
    world = World(UserService(*keys), most_known=3)

    for key in [*keys, *(key_format.new_key() for _ in range(9))]:
        world.outcome(key)
    world.outcome(keys[0])

    assert world.users.exchanged.count(keys[0]) == 2
    assert world.users.exchanged.count(keys[3]) == 1
    assert world.outcome(keys[3]) == "k4"
    assert world.users.exchanged.count(keys[3]) == 1


def test_uses_are_counted_by_key_and_told() -> None:
    world = World(UserService(KEY, OTHER))
    for key in (KEY, KEY, OTHER, "nonsense"):
        world.outcome(key)

    world.keys.flush()
    world.keys.flush()

    assert world.users.counts == [{"counts": {"k1": 2, "k2": 1}}]


def test_uses_that_could_not_be_told_are_told_later() -> None:
    world = World(UserService(KEY))
    world.outcome()
    world.users.trouble = InternalUnavailable("ConnectionError")
    world.keys.flush()
    world.users.trouble = None
    world.outcome()

    world.keys.flush()

    assert world.users.counts == [{"counts": {"k1": 2}}]


@dataclass
class Gateway:
    """A request's way through policies, with a key."""

    directory: Path
    users: UserService
    redis_url: str = parts.NOWHERE

    def __post_init__(self) -> None:
        self.runtime = parts.runtime(
            self.directory, jwt_secret_key=SECRET.value, var_dir=self.directory, redis_url=self.redis_url
        )
        self.runtime.api_keys = ApiKeys(self.users, self.runtime.verifier, spawn=lambda work: work())

    def exchange(self, headers: Mapping[str, str], **service: object) -> Exchange:
        return parts.exchange(self.runtime, headers=headers, of=parts.service(**service))  # pyright: ignore[reportArgumentType]


SHOWN = [{"x-api-key": KEY}, {"authorization": f"ApiKey {KEY}"}, {"authorization": f"apikey  {KEY}"}]


@pytest.mark.parametrize("headers", SHOWN)
def test_the_service_gets_a_token_and_never_the_key(tmp_path: Path, headers: Mapping[str, str]) -> None:
    exchange = Gateway(tmp_path, UserService(KEY)).exchange(headers)

    require_jwt(permissions=("orders:read",))(parts.answering())(exchange)
    sent = outgoing_fields(exchange)

    assert dict(sent)["Authorization"] == f"Bearer {exchange.access_token}"
    assert dict(sent)["X-User-Id"] == "u1"
    assert KEY not in str(sent)


@pytest.mark.parametrize("headers", [{"x-api-key": OTHER}, {"authorization": f"ApiKey {OTHER}"}])
def test_a_key_that_is_not_good_is_not_sent_on_to_a_public_service_either(
    tmp_path: Path, headers: Mapping[str, str]
) -> None:
    sent = outgoing_fields(Gateway(tmp_path, UserService(KEY)).exchange(headers))

    assert OTHER not in str(sent)
    assert "Authorization" not in dict(sent)


def test_a_verbatim_service_gets_what_the_caller_sent(tmp_path: Path) -> None:
    sent = outgoing_fields(Gateway(tmp_path, UserService(KEY)).exchange({"x-api-key": "theirs"}, is_verbatim=True))

    assert ("x-api-key", "theirs") in sent


@pytest.mark.parametrize(
    ("asks", "code"),
    [
        ({"permissions": ("orders:write",)}, "PERMISSION_REQUIRED"),
        ({"roles": ("customer",)}, "ROLE_REQUIRED"),
        ({"session": True}, "SESSION_REQUIRED"),
        ({"second_factor": True}, "SECOND_FACTOR_NEEDED"),
    ],
)
def test_a_route_refuses_a_key_that_lacks_what_it_asks_for(tmp_path: Path, asks: dict[str, bool], code: str) -> None:
    exchange = Gateway(tmp_path, UserService(KEY)).exchange({"x-api-key": KEY})

    with pytest.raises(Forbidden) as caught:
        require_jwt(**asks)(parts.answering())(exchange)  # pyright: ignore[reportArgumentType, reportCallIssue]

    assert caught.value.code == code


@pytest.mark.parametrize("headers", SHOWN)
@pytest.mark.parametrize(("control", "is_kept"), [("max-age=60", False), ("public, max-age=60", True)])
def test_an_answer_to_a_key_is_kept_only_if_it_says_that_all_may_have_it(
    tmp_path: Path, valkey: Valkey, headers: Mapping[str, str], control: str, is_kept: bool
) -> None:
    gateway = Gateway(tmp_path, UserService(KEY), redis_url=valkey.url)
    name = f"things-{next(_numbers)}"
    handler = cached(require_jwt(parts.answering(headers=[("Cache-Control", control)])))

    first = handler(gateway.exchange(headers, name=name))

    assert first.header("cache-status") == "gateway; fwd=miss" + ("; stored" if is_kept else "")


def test_an_answer_that_varies_by_who_asks_is_not_given_to_somebody_else(tmp_path: Path, valkey: Valkey) -> None:
    gateway, numbers = Gateway(tmp_path, UserService(KEY, OTHER), redis_url=valkey.url), itertools.count(1)

    def numbered(_exchange: Exchange) -> Answer:
        fields = [("Cache-Control", "public, max-age=60"), ("Vary", "Authorization")]
        return Answer(200, fields, (str(next(numbers)).encode(),))

    handler = cached(numbered)
    said = [
        b"".join(handler(gateway.exchange(headers, name="varying")).body)
        for headers in ({"x-api-key": KEY}, {"x-api-key": OTHER}, {}, {"x-api-key": KEY}, {"x-api-key": OTHER}, {})
    ]

    assert said == [b"1", b"2", b"3", b"1", b"2", b"3"]


def test_callers_with_different_keys_are_different_variants(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, UserService(KEY))

    told = {
        gateway.exchange(headers).varying.get("authorization") for headers in (*SHOWN[:1], {"x-api-key": OTHER}, {})
    }

    assert len(told) == 3
    assert not any(KEY in str(each) for each in told)


def test_an_address_that_guesses_is_stopped_before_anybody_is_asked_and_others_are_not() -> None:
    world = World(UserService(KEY))
    guesses = [key_format.new_key() for _ in range(MOST_GUESSES + 5)]

    def guess(key: str, address: str) -> str:
        try:
            world.keys.exchange(key, address)
        except (Unauthorized, TooManyRequests) as refused:
            return refused.code
        return "let in"

    told = [guess(key, f"2001:db8::{number:x}") for number, key in enumerate(guesses)]  # all of one network

    assert told == ["INVALID_API_KEY"] * MOST_GUESSES + ["RATE_LIMIT_EXCEEDED"] * 5
    assert world.users.exchanged == guesses[:MOST_GUESSES]
    assert guess(guesses[0], "2001:db8::1") == "INVALID_API_KEY"  # one that is known to be none costs nothing
    assert guess(KEY, "2001:db8:1::1") == "let in"
    assert guess(KEY, "2001:db8::1") == "let in"  # it is known by now

    world.now += GUESSES_S
    assert guess(guesses[-1], "2001:db8::1") == "INVALID_API_KEY"
