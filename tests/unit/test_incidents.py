"""What the gateway remembers of requests that it refused, in a worker and, for all of them, in a real Valkey."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import redis
from gunicorn.config import Config
from gunicorn.http import errors, message
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from structlog.testing import capture_logs

from common.problems import BadGateway, BadRequest, NotFound, Problem
from common.tokens import Identity
from deploy.local.valkey import Valkey
from gateway import incidents
from gateway.exchange import Answer, Exchange
from gateway.incidents import Asked, Incident, Incidents
from gateway.policies.limited import limited
from gateway.runtime import Runtime
from gateway.whence import Whence, own_file, place_of
from tests.support.ports import free_port
from tests.support.tokens import SharedSecret, claims
from tests.unit import parts

NOON = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture
def worker(valkey: Valkey) -> Generator[Callable[[], Incidents]]:
    """Makes workers that share a Valkey, which is empty before, and a clock."""
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        clock = Clock()
        yield lambda: Incidents(client, clock=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alone(clock: Clock) -> Incidents:
    """A worker whose Redis is away."""
    return Incidents(redis.Redis.from_url(parts.NOWHERE, retry=None), clock=clock)


SECRET = SharedSecret.generate()


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"), jwt_secret_key=SECRET.value)


def incident(
    request_id: str = "req-1", *, code: str = "NOT_FOUND", caller: str = "192.0.2.1", at: float = NOON
) -> Incident:
    return Incident(
        request_id,
        at,
        404,
        code,
        "There is nothing.",
        Whence("gateway/router.py:1", ""),
        Asked("GET", "/x", "h", "", caller, "u1", ("admin", "customer")),
        route="things.all",
        service="things",
        notes={"limit": "login", "tries": 2},
    )


def test_a_worker_remembers_what_it_refused(alone: Incidents) -> None:
    alone.add(incident())

    assert alone.find("req-1") == incident()


def test_nothing_is_known_of_other_requests(alone: Incidents) -> None:
    alone.add(incident())

    assert alone.find("req-2") is None


def test_a_worker_forgets_the_oldest_first(alone: Incidents) -> None:
    for number in range(incidents.REMEMBERED + 1):
        alone.add(incident(f"req-{number}"))

    assert [alone.find(f"req-{number}") is None for number in (0, 1, incidents.REMEMBERED)] == [True, False, False]


def test_of_two_requests_with_one_id_the_later_counts_and_is_kept_as_long(alone: Incidents) -> None:
    alone.add(incident("req-1", code="OLD"))
    for number in range(2, incidents.REMEMBERED + 1):
        alone.add(incident(f"req-{number}"))
    alone.add(incident("req-1", code="NEW"))
    alone.add(incident("one more"))

    found = alone.find("req-1")
    assert found is not None
    assert found.code == "NEW"


def test_other_workers_know_it_after_a_round(worker: Callable[[], Incidents]) -> None:
    one, other = worker(), worker()
    one.add(incident())

    before = other.find("req-1")
    one.write()

    assert (before, other.find("req-1")) == (None, incident())


def test_what_was_written_once_is_not_written_again(worker: Callable[[], Incidents], valkey: Valkey) -> None:
    one, other = worker(), worker()
    one.add(incident())
    one.write()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()

    one.write()

    assert other.find("req-1") is None


def test_a_flood_of_one_kind_leaves_room_for_others(worker: Callable[[], Incidents]) -> None:
    one, other = worker(), worker()
    for number in range(incidents.WRITTEN_A_ROUND):
        one.add(incident(f"flood-{number}", code="RATE_LIMIT_EXCEEDED"))
    one.add(incident("other caller", code="RATE_LIMIT_EXCEEDED", caller="192.0.2.2"))
    one.add(incident("other code"))

    one.write()

    known = sum(other.find(f"flood-{number}") is not None for number in range(incidents.WRITTEN_A_ROUND))
    assert known == incidents.WRITTEN_OF_A_KIND
    assert other.find("other caller") is not None
    assert other.find("other code") is not None


def test_a_round_writes_no_more_than_its_share(worker: Callable[[], Incidents]) -> None:
    one, other = worker(), worker()
    ids = [f"req-{number}" for number in range(incidents.WRITTEN_A_ROUND + 100)]
    for request_id in ids:
        one.add(incident(request_id, caller=request_id))

    one.write()

    assert sum(other.find(request_id) is not None for request_id in ids) == incidents.WRITTEN_A_ROUND


def test_the_next_round_has_room_again(worker: Callable[[], Incidents]) -> None:
    one, other = worker(), worker()
    for number in range(incidents.WRITTEN_OF_A_KIND + 1):
        one.add(incident(f"flood-{number}"))
    one.write()
    one.add(incident("later"))

    one.write()

    assert other.find("later") is not None


def test_all_workers_together_keep_a_bounded_number_the_newest(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        one, other = (Incidents(client, kept=30, clock=clock) for _ in range(2))
        for number in range(40):
            clock.now += 1
            one.add(incident(f"req-{number}", at=clock.now))
            one.write()
        sizes = client.hlen("gateway:incidents"), client.zcard("gateway:incidents:times")

    known = [number for number in range(40) if other.find(f"req-{number}") is not None]
    assert known == list(range(10, 40))
    assert sizes == (30, 30)


def test_after_15_minutes_nobody_else_knows_it(valkey: Valkey) -> None:
    clock = Clock()
    with redis.Redis.from_url(valkey.url) as client:
        client.flushall()
        one, other = Incidents(client, clock=clock), Incidents(client, clock=clock)
        one.add(incident())
        one.write()

        clock.now = NOON + incidents.KEPT_S
        in_time = other.find("req-1")
        clock.now += 1
        late = other.find("req-1")
        one.add(incident("req-2", at=clock.now))
        one.write()

        assert (in_time, late) == (incident(), None)
        assert client.hkeys("gateway:incidents") == [b"req-2"]
        assert 0 < client.ttl("gateway:incidents") <= incidents.KEPT_S
        assert 0 < client.ttl("gateway:incidents:times") <= incidents.KEPT_S


def test_without_redis_a_worker_knows_its_own_and_says_so_once(alone: Incidents, clock: Clock) -> None:
    with capture_logs() as lines:
        for number in range(1, 4):
            alone.add(incident(f"req-{number}"))
            alone.write()
            clock.now += incidents.PAUSE_S

    assert [line["event"] for line in lines] == ["incidents_local"]
    assert not alone.is_shared
    assert alone.find("req-1") == incident()
    assert alone.find("of another") is None


def test_a_look_that_is_answered_shows_that_redis_is_back(tmp_path: Path, clock: Clock) -> None:
    server = Valkey(tmp_path, port=free_port())
    with redis.Redis.from_url(server.url, retry=None) as client:
        one = Incidents(client, clock=clock)
        nothing = one.find("req-1")
        clock.now += incidents.PAUSE_S
        with server:
            one.find("req-1")

    assert nothing is None
    assert one.is_shared


def test_when_redis_is_back_they_are_shared_again(tmp_path: Path, clock: Clock) -> None:
    server = Valkey(tmp_path, port=free_port())
    with redis.Redis.from_url(server.url, retry=None) as client:
        one, other = Incidents(client, clock=clock), Incidents(client, clock=clock)
        one.add(incident())
        one.write()
        one.add(incident("req-2"))
        with server, capture_logs() as lines:
            one.write()
            too_early = other.find("req-2")
            clock.now += incidents.PAUSE_S
            one.add(incident("req-3"))
            one.write()
            found = other.find("req-3")

    assert (too_early, found) == (None, incident("req-3"))
    assert [line["event"] for line in lines] == ["incidents_shared_again"]


def refuses(_exchange: Exchange) -> Answer:
    raise NotFound("not one of the parts that refuse")


def refusal(work: Callable[[], object]) -> Problem:
    with pytest.raises(Problem) as caught:
        work()
    return caught.value


def test_an_incident_names_the_line_that_refused(runtime: Runtime) -> None:
    exchange = parts.exchange(runtime, "GET", "/nowhere")

    place = place_of(refusal(lambda: runtime.table.router.match(exchange)))

    file, _, line = place.rpartition(":")
    source = (Path(__file__).parents[2] / file).read_text().splitlines()
    assert file == "gateway/router.py"
    assert "raise" in source[int(line) - 1]


def test_the_deepest_of_our_lines_counts(runtime: Runtime) -> None:
    handler = limited(refuses)
    exchange = parts.exchange(runtime, of=parts.service(limits=None))

    assert place_of(refusal(lambda: handler(exchange))).startswith("gateway/policies/limited.py:")


def test_a_problem_that_nobody_raised_has_no_place() -> None:
    assert place_of(NotFound("x")) == ""


def test_what_is_remembered_of_a_request_has_no_query_and_no_credentials(runtime: Runtime, alone: Incidents) -> None:
    headers = {"authorization": "Bearer secret", "cookie": "secret", "x-team": "secret", "api-version": "2"}
    exchange = parts.exchange(runtime, "POST", "/things/1?card=secret", headers, body=b"secret", of=parts.service())
    exchange.notes["limit"] = "login"

    alone.note(BadRequest("It is malformed."), exchange)

    found = alone.find("req-1")
    assert found is not None
    assert found.asked == Asked("POST", "/things/1", "h", "2", parts.CALLER)
    assert (found.status, found.code, found.service, found.notes) == (400, "BAD_REQUEST", "things", {"limit": "login"})
    assert "secret" not in str(found)


def test_who_called_is_remembered_only_if_somebody_has_looked(runtime: Runtime, alone: Incidents) -> None:
    known = parts.exchange(runtime, of=parts.service(), request_id="known")
    known.speak_for(Identity("u1", "alice", frozenset({"b", "a"}), NOON))
    token = SECRET.sign(claims("u2", iss="user_service", aud="shop"))
    unknown = parts.exchange(
        runtime, headers={"authorization": f"Bearer {token}"}, of=parts.service(), request_id="unknown"
    )

    for exchange in (known, unknown):
        alone.note(BadRequest("no"), exchange)

    asked = [found.asked for name in ("known", "unknown") if (found := alone.find(name))]
    assert [(each.user, each.roles) for each in asked] == [("u1", ("a", "b")), ("", ())]
    assert unknown.identity is not None


def test_what_a_key_may_is_remembered_so_that_the_request_can_be_judged_again(
    runtime: Runtime, alone: Incidents
) -> None:
    exchange = parts.exchange(runtime, of=parts.service())
    key = Identity(
        "u1", "u1", frozenset(), NOON, frozenset({"b:c", "a:b"}), session="key:k1", amr=frozenset({"api_key"})
    )
    exchange.speak_for(key)

    alone.note(BadRequest("no"), exchange)

    found = alone.find("req-1")
    assert found is not None
    assert (found.asked.permissions, found.asked.amr, found.asked.key) == (("a:b", "b:c"), ("api_key",), "k1")


def test_the_error_behind_a_problem_is_named(runtime: Runtime, alone: Incidents) -> None:
    def fail() -> None:
        try:
            raise ConnectionResetError("by peer")
        except ConnectionResetError as error:
            raise BadGateway("It broke off.") from error

    alone.note(refusal(fail), parts.exchange(runtime, of=parts.service()))

    found = alone.find("req-1")
    assert found is not None
    assert found.whence.reason == "ConnectionResetError"


def test_a_malformed_request_is_remembered_as_far_as_it_was_read(alone: Incidents) -> None:
    environ = {"REQUEST_METHOD": "GET", "RAW_URI": "/a/../b?c=1", "HTTP_HOST": "shop", "REMOTE_ADDR": "192.0.2.7"}

    alone.note_malformed(BadRequest("no", code="UNSAFE_PATH"), environ, "req-1")

    found = alone.find("req-1")
    assert found is not None
    assert (found.code, found.asked) == ("UNSAFE_PATH", Asked("GET", "/a/../b", "shop", caller="192.0.2.7"))


def test_of_what_the_parser_refused_only_the_caller_is_known(alone: Incidents) -> None:
    with pytest.raises(errors.InvalidRequestLine) as refused:
        Request(Config(), IterUnreader([b"nonsense\r\n\r\n"]), ("", 0))

    alone.note_unread(BadRequest("no"), "req-1", "192.0.2.7", refused.value)

    found = alone.find("req-1")
    assert found is not None
    assert (found.asked, found.whence.reason) == (Asked(caller="192.0.2.7"), "InvalidRequestLine")
    file, _, line = found.whence.place.rpartition(":")
    source = (Path(message.__file__).parents[2] / file).read_text().splitlines()
    assert "raise InvalidRequestLine" in source[int(line) - 1]


def test_texts_of_the_caller_are_cut(alone: Incidents) -> None:
    environ = {"REQUEST_METHOD": "GET", "RAW_URI": f"/{'x' * 8000}", "HTTP_HOST": "h" * 8000}

    alone.note_malformed(BadRequest("no"), environ, "req-1")

    found = alone.find("req-1")
    assert found is not None
    assert (len(found.asked.path), len(found.asked.host)) == (incidents.LONGEST_TEXT, incidents.LONGEST_TEXT)


def test_files_of_others_are_none_of_ours() -> None:
    assert [own_file(name) for name in (json.__file__, incidents.__file__)] == ["", "gateway/incidents.py"]
