"""The limits of the pages that Flask serves: Flask-Limiter, counting in the same logs.

Its decorators are for views that want a limit of their own. Its storage hands all on to `Limits`, so that there is one
fallback, one prober and one warning for all.
"""

from __future__ import annotations

import time
from typing import cast

from flask import Flask, Response, g, has_request_context, request
from flask_limiter import Limiter, RateLimitExceeded
from limits import RateLimitItemPerSecond
from limits.storage import MovingWindowSupport, Storage

from common import problems
from gateway.exchange import EXCHANGE, SOURCE, Exchange
from gateway.limits.counting import Limits
from gateway.limits.telling import too_many
from gateway.limits.tiers import of_address
from gateway.limits.verdict import Bucket, Verdict
from gateway.services import DEFAULT_LIMIT
from gateway.shared import PREFIX

SCHEME = f"{PREFIX}+limits"
SERVICE = "pages"
_OF_ALL = "global"
"""Flask-Limiter's scope of limits that all views share."""


class PagesStorage(Storage, MovingWindowSupport):
    """`limits`' view of `Limits`: the moving window, and nothing else of it."""

    STORAGE_SCHEME = [SCHEME]  # noqa: RUF012 - as the base class has it

    def __init__(self, _uri: str, limits: Limits) -> None:
        super().__init__()
        self._limits = limits

    @property
    def base_exceptions(self) -> type[Exception]:
        return ConnectionError  # none that are known: `Limits` never fails

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Counts the request by its address, too. What was said is told to the caller with the answer."""
        buckets = [_bucket(key, limit, expiry)]
        if has_request_context():
            buckets += of_address(_exchange())
        verdict = self._limits.hit(buckets, amount)
        if has_request_context():
            g.limits_verdict = verdict
            _exchange().answer_headers += verdict.headers()
        return verdict.is_allowed

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The start of the window as if it began now: nobody here goes by it."""
        foreseen = self._limits.foresee([_bucket(key, limit, expiry)])
        return time.time(), limit - foreseen.rows[0].remaining if foreseen else 0

    def check(self) -> bool:
        return True

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError(f"strategy other than moving-window for {key}")

    def get(self, key: str) -> int:
        raise NotImplementedError(f"strategy other than moving-window for {key}")

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError(f"strategy other than moving-window for {key}")

    def reset(self) -> None:
        raise NotImplementedError("`flask --app gateway limits reset`")

    def clear(self, key: str) -> None:
        raise NotImplementedError("`flask --app gateway limits reset`")


def init_app(app: Flask, limits: Limits, rate: str) -> None:
    """Limit all pages of `app` together to `rate` for each address."""
    limiter = Limiter(
        _whom,
        app=app,
        application_limits=[rate],
        storage_uri=f"{SCHEME}://",
        storage_options={"limits": limits},  # pyright: ignore[reportArgumentType] - passed through as it is
        strategy="moving-window",
        headers_enabled=False,  # the storage tells what all limits said
    )
    app.extensions["limiter_of_pages"] = limiter

    def on_limit(_error: RateLimitExceeded) -> Response:
        return problems.response(too_many(cast("Verdict", g.limits_verdict)), SOURCE)

    app.register_error_handler(RateLimitExceeded, on_limit)


def _bucket(key: str, limit: int, expiry: int) -> Bucket:
    """`key` is LIMITER/whom/scope/limit/expiry/unit, as Flask-Limiter has made it of what `_whom` says."""
    scope = "/".join(key.split("/")[2:-3])
    whom = _whom_now() if has_request_context() else ""
    return Bucket(
        "address",
        DEFAULT_LIMIT if scope == _OF_ALL else scope or key,
        RateLimitItemPerSecond(limit, expiry),
        SERVICE,
        whom,
    )


def _exchange() -> Exchange:
    exchange: Exchange = request.environ[EXCHANGE]
    return exchange


def _whom() -> str:
    return "caller"  # who that is, with an address that may have slashes, is for `_bucket`


def _whom_now() -> str:
    return _exchange().forwarding.counted_as
