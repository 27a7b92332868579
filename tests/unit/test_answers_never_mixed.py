"""The canary: no answer, nor part of one, ever reaches another caller, whatever breaks off when; over real sockets."""

from __future__ import annotations

import io
import random
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path

import gevent
import pytest

from common.problems import Problem
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.body import Body, CallerGone
from gateway.exchange import Answer
from gateway.observability.metrics import Metrics
from gateway.services import Address, Sources, TLSRule
from tests.support.certificates import Authority
from tests.support.scripted import Peer, Scripted
from tests.unit import parts

CALLERS = 24
REQUESTS = 50
OK = b"HTTP/1.1 200 OK\r\n"


def token(target: str) -> bytes:
    """What the answer to a request for this target is made of."""
    return f"<{target}>".encode()


def answer_of(draw: random.Random, target: str) -> tuple[bytes, bool]:
    """An answer in some framing, perhaps not whole or with something behind it; and whether the service goes on."""
    content = token(target) * draw.choice([1, 3, 40, 6000])
    chunks = [content[start : start + 20_000] for start in range(0, len(content), 20_000)]
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(x), x) for x in chunks)
    sized = OK + b"Content-Length: %d\r\n\r\n" % len(content) + content
    match draw.choice(["sized"] * 6 + ["chunked"] * 4 + ["end", "cut", "torn", "behind", "twice", "close", "doubtful"]):
        case "sized":
            return sized, True
        case "chunked":
            return chunked + b"0\r\nX-Trailer: 1\r\n\r\n", True
        case "end":
            return OK + b"Connection: close\r\n\r\n" + content, False
        case "cut":
            return sized[: draw.randrange(1, len(sized))], False
        case "torn":
            return chunked, False
        case "behind":
            return sized + b"<somebody else's>", True
        case "twice":
            return sized + OK + b"Content-Length: 17\r\n\r\n<somebody else's>", True
        case "doubtful":
            return OK + b"Content-Length: 3\r\n" + sized, False
        case _:
            return sized.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), False


def playing(seed: int) -> Callable[[Peer], None]:
    """A service that reads the whole request, or answers at once; in one piece, or in two with a pause."""
    connections = iter(range(1_000_000))

    def act(peer: Peer) -> None:
        draw = random.Random(f"{seed} {next(connections)}")
        goes_on = True
        while goes_on:
            head = peer.head()
            target = head.start.split(" ")[1]
            length = int(dict(head.headers).get("Content-Length", "0"))
            is_early = length and draw.random() < 0.3
            if length and not is_early:
                peer.exactly(length)
            raw, goes_on = answer_of(draw, target)
            if draw.random() < 0.3:
                middle = draw.randrange(len(raw))
                peer.send(raw[:middle])
                time.sleep(draw.random() * 0.02)
                peer.send(raw[middle:])
            else:
                peer.send(raw)
            goes_on = goes_on and not is_early

    return act


@pytest.fixture(params=["http", "https"])
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[tuple[Scripted, TLSRule]]:
    authority = Authority(tmp_path)
    tls = authority.issue().server_context() if request.param == "https" else None
    with Scripted(tls=tls) as made:
        yield made, TLSRule(ca=authority.path)
    assert [error for error in made.errors if not isinstance(error, OSError)] == []


def test_no_answer_reaches_another_caller(service: tuple[Scripted, TLSRule]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    scripted, tls = service
    scripted.act = playing(seed)
    described = parts.service(
        sources=Sources((Address(scripted.url),)), tls=tls, retries=0, breaker=None, ejection=None, timeout_s=5.0
    )
    backend = Backend(described, parts.settings(backend_pool_size=12), Metrics())
    seen = Counter[str]()

    with gevent.Timeout(100):
        callers = [gevent.spawn(call_often, backend, random.Random(f"{seed} {n}"), n, seen) for n in range(CALLERS)]
        gevent.joinall(callers, raise_error=True)

    print(dict(seen))
    assert sum(seen.values()) == CALLERS * REQUESTS
    assert seen["whole"] > CALLERS * REQUESTS / 10
    assert [instance.in_flight for instance in backend.instances] == [0]


def call_often(backend: Backend, draw: random.Random, caller: int, seen: Counter[str]) -> None:
    for number in range(REQUESTS):
        target = f"/{caller}/{number}"
        one = gevent.spawn(call_once, backend, draw, target)
        if draw.random() < 0.15:
            gevent.sleep(draw.random() * 0.01)
            one.kill()
        one.join()
        outcome = one.value if isinstance(one.value, str) else "killed"
        assert not outcome.startswith("mixed"), outcome
        if one.exception is not None:
            raise one.exception
        seen[outcome] += 1


def call_once(backend: Backend, draw: random.Random, target: str) -> str:
    """What became of it: `whole`, or how it ended."""
    size = draw.choice([0, 0, 0, 10, 200_000])
    body = Body(io.BytesIO(b"x" * size), size)
    body.pass_through(None) if draw.random() < 0.5 else body.bound(1 << 30)
    total_s = draw.choice([0.005, 0.02, 5.0, 5.0, 5.0])
    is_left = draw.random() < 0.15
    asked = Call("POST" if size else "GET", target, [], body, Countdown(total_s), total_s)
    content = b""
    answer: Answer | None = None
    try:
        answer = backend.send(asked)
        for piece in answer.body:
            content += piece
            if content and is_left:
                return checked(content, target, "left")
        return checked(content, target, "whole" if content.endswith(b">") else "cut")
    except (Problem, CallerGone) as problem:
        return type(problem).__name__
    except ConnectionResetError:
        return checked(content, target, "cut")
    finally:
        with suppress(OSError):
            answer.close() if answer else None
        body.close()


def checked(content: bytes, target: str, outcome: str) -> str:
    own = token(target)
    expected = own * (len(content) // len(own) + 1)
    return outcome if expected.startswith(content) else f"mixed: {content[:200]!r} for {target}"
