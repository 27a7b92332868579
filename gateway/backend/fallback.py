"""What a caller of GET or HEAD gets while no instance of a service can be had, where the services file has a fallback.

Only what the gateway itself would answer with 502, 503 or 504 is replaced; a 5xx of the service passes as it is.

    1  the last kept answer, though it is too old (`policies.cached` offers it); says so in `Cache-Status` (RFC 9211)
    2  the fixed answer of the services file; says so in `Proxy-Status` (RFC 9209), and is never kept

Both name the code of the problem whose place they take.
"""

from __future__ import annotations

from common.problems import Problem
from gateway.exchange import Answer, Exchange
from gateway.services import Fallback

REPLACED = frozenset({502, 503, 504})

# RFC 9209, 2.3
_ERRORS = {
    "SERVICE_TIMEOUT": "http_response_timeout",
    "BAD_ANSWER": "http_response_incomplete",
    "OVERLOADED": "connection_limit_reached",
    "SERVICE_BUSY": "connection_limit_reached",
}


def stand_in(exchange: Exchange, problem: Problem) -> Answer | None:
    """The answer instead of `problem`; None where there is none."""
    fallback = exchange.service.fallback
    if fallback is None or exchange.method not in ("GET", "HEAD") or problem.status not in REPLACED:
        return None
    kind, answer = "stale", exchange.stale_answer(problem.code) if exchange.stale_answer else None
    if answer is None:
        kind, answer = "static", _fixed_answer(fallback, exchange.method, problem)
    if answer is None:
        return None
    answer.stands_in_for = problem.code
    exchange.notes["fallback"], exchange.notes["code"] = kind, problem.code
    exchange.runtime.metrics.fell_back(exchange.service.name, kind)
    return answer


def _fixed_answer(fallback: Fallback, method: str, problem: Problem) -> Answer | None:
    if fallback.status is None:
        return None
    error = _ERRORS.get(problem.code, "destination_unavailable")
    headers = [
        ("Content-Type", fallback.content_type),
        ("Content-Length", str(len(fallback.body))),
        ("Cache-Control", "no-store"),
        ("Proxy-Status", f'gateway; error={error}; details="{problem.code}"'),
    ]
    return Answer(fallback.status, headers, () if method == "HEAD" else (fallback.body,))
