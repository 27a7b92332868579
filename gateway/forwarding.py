"""`forward(exchange)`: the innermost handler. Everything that may refuse has spoken; this talks to the service."""

from __future__ import annotations

import random
import sys
from functools import lru_cache

from common import deadlines
from common.identity import Identity
from common.problems import NotImplementedProblem, Problem
from common.turns import keep_step
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.fallback import stand_in
from gateway.body import CallerGone, refuse_torn_body
from gateway.exchange import Answer, Exchange, HeaderList
from gateway.headers import (
    Fields,
    incoming_answer_headers,
    outgoing_headers,
    passed_answer_fields,
    passed_request_fields,
)
from gateway.outgoing import outgoing_target as outgoing_target

_DEADLINE = deadlines.HEADER.lower()


def forward(exchange: Exchange) -> Answer:
    """Send the request to its service and give back what came.

    1. Take in the body as far as its length is not known, so that a body that is too long never reaches the service;
       or nothing of it, where the service is not buffered.
    2. Replace the public prefix of the path by the service's own, or rewrite it as the route says; the rest stays as
       the caller wrote it.
    3. Drop the fields that belong to the caller's connection or that only we may set, and set ours.
    4. Copy it for another service, where the route wants that.
    5. Send, by the backend's rules for instances, time-outs, breakers and retries. A fallback may stand in.
    6. Clean the answer's fields in the same way.

    For a verbatim service 3 and 6 are only what RFC 9110 wants of a proxy.
    """
    if _hops(exchange) == 0:
        return _as_last(exchange)
    service, body, time = exchange.service, exchange.body, _countdown(exchange)
    backend = exchange.table.backends[exchange.backend]
    body.is_verbatim = service.is_verbatim
    try:
        if service.is_buffered:  # 1
            body.bound(service.max_body_bytes or sys.maxsize)
        else:
            body.pass_through(service.max_body_bytes)
        target = outgoing_target(exchange)  # 2
        keep_step()
        headers = outgoing_fields(exchange)  # 3
        call = _call(exchange, target, headers, time)
        _mirror(exchange, call)  # 4
        if exchange.stages:
            exchange.stages.ended("prepare")
        answer = exchange.runtime.entrance.admit(call, backend.send)  # 5
    except CallerGone as error:
        raise refuse_torn_body(error) from error
    except Problem as problem:
        answer = stand_in(exchange, problem)
        if answer is None:
            raise
        return answer
    finally:
        body.close()
    if service.is_verbatim:  # 6
        answer.headers = passed_answer_fields(answer.headers, answer.protocol)
    else:
        answer.headers = incoming_answer_headers(answer.headers, answer.instance_url)
    return answer


def _countdown(exchange: Exchange) -> Countdown:
    """The request's time; from now on it stands still while the caller's body is waited for."""
    said = None if exchange.service.is_verbatim else exchange.headers.get(_DEADLINE)
    time = Countdown(exchange.service.timeout_s, deadlines.parse(said), began=exchange.started)
    time.ends_at += exchange.body.waited_s
    if exchange.body.streams:
        exchange.body.reader = time.standing_still(exchange.body.reader)
    return time


def _call(exchange: Exchange, target: str, headers: HeaderList, time: Countdown) -> Call:
    service = exchange.service
    if not service.is_verbatim and _DEADLINE in exchange.headers:
        headers = [(name, value) for name, value in headers if name != deadlines.HEADER]  # each try says its own
    return Call(
        exchange.method,
        target,
        headers,
        exchange.body,
        time,
        service.try_timeout_s,
        key=exchange.caller_key if service.balance == "hash" else "",  # else no token need be looked at
        priority=service.priority,
        tells_time=not service.is_verbatim,
        notes=exchange.notes,
        stages=exchange.stages,
    )


def _mirror(exchange: Exchange, call: Call) -> None:
    mirror = exchange.service.mirror
    if mirror is not None and random.uniform(0, 100) < mirror.percent:
        backend = exchange.table.backends[mirror.service]
        exchange.runtime.mirroring.copy(backend, call, outgoing_target(exchange, mirror.service))


def outgoing_fields(exchange: Exchange) -> HeaderList:
    """The header fields that the service is sent."""
    return exchange.service.request_headers.apply(_outgoing_headers(exchange))


def _outgoing_headers(exchange: Exchange) -> HeaderList:
    host = exchange.service.host
    if host == "instance":
        told = None
    elif host == "caller":
        told = exchange.target.authority or exchange.headers.get("host")
    else:
        told = host
    if exchange.service.is_verbatim:
        incoming = exchange.headers
        pairs = incoming.pairs if isinstance(incoming, Fields) else list(incoming.items())
        headers = passed_request_fields(pairs, exchange.forwarding.protocol, told)
    else:
        headers = outgoing_headers(
            exchange.headers, exchange.forwarding, _identity_fields(exchange), exchange.request_id
        )
        headers = headers if told is None else [("Host", told), *headers]
    if (hops := _hops(exchange)) is not None:
        fewer = str(hops - 1)
        headers = [(name, fewer if name.lower() == "max-forwards" else value) for name, value in headers]
    return headers


def _hops(exchange: Exchange) -> int | None:
    """What Max-Forwards says of a TRACE or OPTIONS, None where nothing (RFC 9110, 7.6.2)."""
    if exchange.method not in ("TRACE", "OPTIONS"):
        return None
    allowed = exchange.headers.get("max-forwards", "")
    return int(allowed[:9]) if allowed.isascii() and allowed.isdigit() else None


def _as_last(exchange: Exchange) -> Answer:
    """The answer to a TRACE or OPTIONS that may not be passed on."""
    if exchange.method == "TRACE":
        raise NotImplementedProblem("The gateway itself does not offer TRACE.", code="METHOD_NOT_IMPLEMENTED")
    return Answer(204, [], ())


def _identity_fields(exchange: Exchange) -> HeaderList:
    """Who calls: the verified token, and what it says for services that don't read tokens."""
    identity = exchange.identity
    if identity is None:
        return []
    return [*_told(identity), ("Authorization", f"Bearer {exchange.access_token}")]


def _told(identity: Identity) -> HeaderList:
    """Names are user input: what is not plain text is left out."""
    fields = [
        ("X-User-Id", identity.user_id),
        ("X-User-Name", identity.username),
        ("X-User-Roles", _listed(identity.roles)),
    ]
    return [pair for pair in fields if pair[1].isascii() and pair[1].isprintable()]


@lru_cache(maxsize=256)
def _listed(roles: frozenset[str]) -> str:
    return ",".join(sorted(roles))
