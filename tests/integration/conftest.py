"""The gateway under gunicorn, one stub that stands in for every service behind it, and a Valkey."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis

from deploy.local.valkey import Valkey
from tests.support import wire
from tests.support.ports import free_port, free_ports
from tests.support.processes import Process, wait_until
from tests.support.received import Received
from tests.support.stub import StubService
from tests.support.tokens import KeyPair, SharedSecret, claims, jwks
from tests.support.wire import Pairs, RawAnswer

LAST_EVENTS = {"request", "request_refused", "request_failed"}
JWKS_PATH = "/.well-known/jwks.json"
ISSUED = {"iss": "user_service", "aud": "shop"}
KEYS = KeyPair.generate("key-1")

PLENTY: Mapping[str, str] = {
    "WEB_CONCURRENCY": "2",
    "RATE_LIMIT_REQUESTS": "1000000",
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1000000",
    "LIMITS_TIMEOUT_MS": "5000",
    "WORKER": os.environ.get("TESTED_WORKER", "fast"),
}
"""Settings under which neither limit nor breaker gets in the way, and a busy machine is no reason to count locally."""

SERVICES = """
services:
  users:
    url: {url}
    aliases: [user, auth]
    limits: {{login: 100000/minute, register: 100000/minute}}
  orders: {{url: "{url}", aliases: [order]}}
  products: {{url: "{url}", aliases: [product], cache: true}}
  students: {{url: "{url}", cache: true}}
  open: {{url: "{url}", public: true, path: /}}
  kept: {{url: "{url}", public: true, path: /, cache: true}}
  staff: {{url: "{url}", roles: [teacher, admin]}}
  small: {{url: "{url}", public: true, path: /, max_body: 1KB}}
  brisk: {{url: "{url}", public: true, path: /, timeout_s: 0.5}}
  absent: {{url: "http://127.0.0.1:{closed_port}", public: true, path: /}}
"""
"""All at one stub. `open` strips its prefix and wants no token, so `/open/slow/2` is the stub's `/slow/2`."""
SERVICE_SECRET = SharedSecret.generate().value
"""Of the gateway and whoever it asks for itself."""


class Gateway:
    """A gateway of its own, stopped at the end of a `with`. Not thread-safe but for `get` and `request`."""

    def __init__(
        self,
        directory: Path,
        *,
        stub: StubService,
        redis_url: str,
        env: Mapping[str, str] | None = None,
        services: str = SERVICES,
        app: str = "gateway.wsgi:app",
    ) -> None:
        """`env` is laid over `PLENTY`; in `services`, {url} is the stub's and {closed_port} one nobody listens on."""
        directory.mkdir(parents=True, exist_ok=True)
        self.port, self.operations_port = free_ports(2)
        self.stub = stub
        self.services_file = directory / "services.yaml"
        self.services_file.write_text(services.format(url=stub.url, closed_port=free_port()))
        self.env = {
            **PLENTY,
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "GATEWAY_OPERATIONS_PORT": str(self.operations_port),
            "GATEWAY_SERVICES": str(self.services_file),
            "USER_SERVICE_URL": stub.url,
            "REDIS_URL": redis_url,
            "SERVICE_SECRET": SERVICE_SECRET,
            **(env or {}),
        }
        self.process = Process.gunicorn(
            app,
            conf="gateway/gunicorn.conf.py",
            directory=directory,
            env=self.env,
            ready_url=f"http://127.0.0.1:{self.operations_port if 'TLS_KEY' in self.env else self.port}/health",
        )

    def start(self) -> Self:
        self.stub.json.setdefault(JWKS_PATH, jwks(KEYS))
        self.process.start()
        workers = int(self.env["WEB_CONCURRENCY"])
        wait_until(lambda: len(self.process.children()) == workers, f"{workers} workers", timeout_s=15)
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()

    def get(self, target: str, headers: Pairs = (), *, timeout: float = 10.0) -> RawAnswer:
        return wire.get(self.port, target, headers, timeout=timeout)

    def request(
        self, method: str, target: str, headers: Pairs = (), body: bytes = b"", *, timeout: float = 10.0
    ) -> RawAnswer:
        return wire.request(self.port, method, target, headers, body, timeout=timeout)

    def connect(self, *, timeout: float = 10.0) -> wire.Connection:
        """A connection for several exchanges, or for a request in pieces."""
        return wire.Connection(self.port, timeout=timeout)

    def operations(self, target: str, headers: Pairs = ()) -> RawAnswer:
        """GET from the operations listener."""
        return wire.get(self.operations_port, target, headers)

    @property
    def arrived(self) -> list[Received]:
        """What callers' requests became at the stub; what the workers ask for themselves is left out."""
        own = (JWKS_PATH, "/internal/")
        return [received for received in self.stub.requests if not received.path.startswith(own)]

    def log_of(self, answer: RawAnswer) -> list[dict[str, object]]:
        """The log lines with an answer's request id, once the last of them is there: it follows the last byte."""
        request_id = answer.header("X-Request-ID")

        def lines() -> list[dict[str, object]]:
            return [line for line in self.process.json_log() if line.get("request_id") == request_id]

        wait_until(lambda: any(line["event"] in LAST_EVENTS for line in lines()), f"the access line of {request_id}")
        return lines()

    def wait_for_metric(self, sample: str) -> None:
        """Return once the metrics have this sample: a request is counted after its last byte."""
        wait_until(lambda: sample in self.operations("/metrics").body.decode(), sample)

    def events(self, event: str) -> list[dict[str, object]]:
        """The log lines called `event`."""
        return [line for line in self.process.json_log() if line["event"] == event]

    def errors(self) -> list[str]:
        """The lines of the log that tell of a fault of ours, a stack trace among them."""
        wrong = ('"level":"error"', '"level":"critical"', "Traceback")
        return [line for line in self.process.log().splitlines() if any(mark in line for mark in wrong)]


def honest(
    subject: str = "u1", roles: Sequence[str] = ("customer",), *, lifetime_s: float = 14_400
) -> dict[str, object]:
    """The claims of an access token as user_service issues it."""
    return claims(subject, lifetime_s=lifetime_s, username=subject, roles=list(roles), **ISSUED)


def bearer(subject: str = "u1", roles: Sequence[str] = ("customer",)) -> list[tuple[str, str]]:
    """The Authorization header of a user."""
    return carrying(KEYS.sign(honest(subject, roles)))


def carrying(token: str) -> list[tuple[str, str]]:
    """The Authorization header with this token."""
    return [("Authorization", f"Bearer {token}")]


ADMIN = bearer("boss", ["admin"])

GatewayFactory = Callable[..., Gateway]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Generator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), port=free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def database(valkey: Valkey) -> Callable[[], str]:
    """Gives the URL of an empty database of the shared Valkey: gateways must not share their counts."""
    numbers = itertools.cycle(range(16))

    def empty() -> str:
        url = f"{valkey.url.rpartition('/')[0]}/{next(numbers)}"
        with redis.Redis.from_url(url) as client:
            client.flushdb()
        return url

    return empty


@pytest.fixture(scope="session")
def shared_stub() -> Generator[StubService]:
    with StubService() as service:
        yield service


@pytest.fixture(scope="session")
def shared_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_stub: StubService, database: Callable[[], str]
) -> Generator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    with Gateway(directory, stub=shared_stub, redis_url=database()) as gateway:
        warm(gateway)
        yield gateway


@pytest.fixture
def gateway(shared_gateway: Gateway) -> Generator[Gateway]:
    """Two workers, no limit or breaker in the way, a stub that has forgotten; nothing may go wrong inside."""
    ready(shared_gateway)
    with no_fault_in(shared_gateway):
        yield shared_gateway


@pytest.fixture(scope="module")
def start_gateway(tmp_path_factory: pytest.TempPathFactory, database: Callable[[], str]) -> Generator[GatewayFactory]:
    """Starts gateways with settings and a stub of their own; they are stopped after the module."""
    with ExitStack() as stack:

        def start(
            *, redis_url: str | None = None, services: str = SERVICES, is_ready: bool = True, **env: str
        ) -> Gateway:
            made = Gateway(
                tmp_path_factory.mktemp("gateway"),
                stub=stack.enter_context(StubService()),
                redis_url=redis_url or database(),
                env=env,
                services=services,
            )
            stack.enter_context(made)
            if is_ready:
                warm(made)
            return made

        yield start


def warm(gateway: Gateway) -> None:
    """Every worker has the keys: else a test that clears the stub's answers meets a worker without them."""
    for _ in range(4 * int(gateway.env["WEB_CONCURRENCY"])):
        assert gateway.get("/ready").status == 200


def ready(gateway: Gateway) -> None:
    """Forget what the stub has seen; its keys stay published."""
    gateway.stub.clear()
    gateway.stub.json[JWKS_PATH] = jwks(KEYS)


@contextmanager
def no_fault_in(gateway: Gateway) -> Generator[None]:
    """Nothing is logged meanwhile that an operator would have to look at: no error line, no stack trace."""
    before = len(gateway.errors())
    yield
    assert gateway.errors()[before:] == []


def assert_problem(answer: RawAnswer, status: int, code: str, *, source: str = "gateway") -> None:
    """The one error shape (RFC 9457, and the four older members), with the id that the header names."""
    assert answer.status == status, answer.raw
    assert answer.header("Content-Type") == "application/problem+json"
    document = answer.json()
    assert document["code"] == code, document
    assert document["status"] == status
    assert document["source"] == source
    assert document["request_id"] == answer.header("X-Request-ID") != ""
    assert {"type", "title", "detail", "error", "message"} <= document.keys()
    assert "127.0.0.1" not in answer.body.decode()


def together(count: int, work: Callable[[int], RawAnswer]) -> list[RawAnswer]:
    """The answers of `work(0)` to `work(count - 1)`, all asked for at once."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(work, range(count)))


def statuses(answers: Iterable[RawAnswer]) -> list[int]:
    return sorted(answer.status for answer in answers)
