"""The words of the pipeline: an `Exchange` is one request's facts, a `Handler` takes one and gives an `Answer`.

Policies work on these and never on `flask.request`, so the same composed handler serves wherever the request came in.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.cookies import Morsel, SimpleCookie
from typing import TYPE_CHECKING, Protocol

from common.keys import InvalidToken, KeysUnavailable
from common.problems import Problem
from common.tokens import Identity
from gateway.body import Body
from gateway.callers import Forwarding
from gateway.cookies import SAFE_METHODS
from gateway.credentials import Credential, credential_of
from gateway.rewriting import capture
from gateway.targets import Target

if TYPE_CHECKING:
    from gateway.observability.stages import Stages
    from gateway.router import Route
    from gateway.runtime import Runtime
    from gateway.services import Service
    from gateway.table import Table

SOURCE = "gateway"
"""The source that our own problems name."""

EXCHANGE = "gateway.exchange"
"""The key of the WSGI environment under which the edge leaves the exchange."""

HeaderList = list[tuple[str, str]]


@dataclass(slots=True)
class Answer:
    """What goes back to the caller. A body that streams may have a `close` method, which is called in any case."""

    status: int
    headers: HeaderList
    body: Iterable[bytes]
    instance_url: str = ""  # where it came from
    protocol: str = "1.1"  # version of HTTP that it came by
    stands_in_for: str = ""  # code of the problem in whose place the gateway gives it, see `backend.fallback`

    def close(self) -> None:
        """Nobody will read the body."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()

    def header(self, name: str) -> str | None:
        """The first field called `name` (lower case)."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Handler(Protocol):
    """The last one is `forward`; each policy wraps one. Raises `Problem` to refuse."""

    def __call__(self, exchange: Exchange, /) -> Answer: ...


Policy = Callable[[Handler], Handler]


@dataclass(slots=True)
class Exchange:
    """One request's facts on its way through. Belongs to one greenlet."""

    method: str
    target: Target
    headers: Mapping[str, str]  # lower-case names; WSGI joined repeated fields with a comma
    body: Body
    forwarding: Forwarding
    request_id: str
    runtime: Runtime
    table: Table  # the one that was in force when the request came
    is_operations: bool  # came in on the operations listener
    started: float = field(default_factory=time.monotonic)
    service: Service = field(init=False)
    route: Route = field(init=False)
    backend: str = ""  # key of the service that is asked: the route's, or another one that a split chose
    prefix_segments: int = 0  # how many of the target's segments belong to the service's public prefix
    answer_headers: HeaderList = field(default_factory=list)  # what policies add to whatever answer it will be
    notes: dict[str, str | int | float] = field(default_factory=dict)  # for the access line
    stages: Stages | None = None  # where somebody wants to know how long they took
    stale_answer: Callable[[str], Answer | None] | None = None
    """Gives, for the code of a problem, the kept answer that may be told instead though it is too old."""
    _identity: Identity | Exception | None = field(default=None, init=False)
    _identity_known: bool = field(default=False, init=False)
    access_token: str = field(default="", init=False)
    """The token that was verified, whatever it was shown as; the service gets it."""

    @property
    def identity(self) -> Identity | None:
        """Who a valid token speaks for, None for no token or a bad one. Decoded at most once, never raises."""
        outcome = self.verified()
        return outcome if isinstance(outcome, Identity) else None

    @property
    def known_identity(self) -> Identity | None:
        """As `identity`, but without looking at a token that nobody has looked at."""
        return self._identity if isinstance(self._identity, Identity) else None

    def verified(self) -> Identity | Exception | None:
        """As `identity`, but the `InvalidToken`, `KeysUnavailable` or `Problem` for what is not good.

        Not to be raised itself where that happens often: its traceback would lead back to us, and only the garbage
        collector would free us then.
        """
        if not self._identity_known:
            self._identity_known = True
            if self.stages:
                self.stages.apart("auth", self._look)
            else:
                self._look()
        return self._identity

    def speak_for(self, identity: Identity) -> None:
        """Take `identity` for verified, for rehearsals without a token."""
        self._identity, self._identity_known = identity, True

    @property
    def caller_key(self) -> str:
        """What `hash_by` says: the same caller, or the same field or cookie, gets the same instance and split."""
        kind, _, name = self.service.hash_by.partition(":")
        if kind == "header":
            return self.headers.get(name.lower(), "")
        if kind == "cookie":
            return SimpleCookie(self.headers.get("cookie", "")).get(name, Morsel[str]()).value or ""
        identity = self.identity if kind == "user" else None
        return identity.user_id if identity else self.forwarding.caller

    @property
    def captured(self) -> dict[str, str]:
        """What the names in the route's template stand for, as the caller wrote it."""
        return capture(self.route.template, self.target.after(self.prefix_segments).split("/")[1:])

    @property
    def credential(self) -> Credential | None:
        """What the request shows of who it is. Raises `BadRequest` or `InvalidToken`."""
        cookie = self.runtime.browsers.session_cookie(self.forwarding) if "cookie" in self.headers else ""
        return credential_of(self.headers, cookie)

    @property
    def varying(self) -> Mapping[str, str]:
        """The fields that may tell variants of an answer apart: with `authorization`, in whichever way it was shown."""
        try:
            shown = self.credential
        except (InvalidToken, Problem):
            shown = None
        if shown is None or shown.kind == "token":
            return self.headers
        return {**self.headers, "authorization": hashlib.sha256(shown.value.encode()).hexdigest()}

    def _look(self) -> None:
        try:
            self._identity = self._verify(self.credential)
        except Problem as problem:
            self._identity = problem
        except (InvalidToken, KeysUnavailable) as error:
            error.__context__ = None
            self._identity = error.with_traceback(None)  # which leads back here
        if self._identity is not None:
            self.runtime.metrics.credential_shown(_result(self._identity))

    def _verify(self, shown: Credential | None) -> Identity | None:
        if shown is None:
            return None
        if shown.kind == "key":
            self.access_token, identity = self.runtime.api_keys.exchange(shown.value, self.forwarding.caller)
            return identity
        self.access_token = shown.value
        identity = self.runtime.verifier.verify(self.access_token)
        if shown.kind == "cookie" and self.method not in SAFE_METHODS:
            self.runtime.browsers.check_page(self.headers, self.forwarding)
            self.runtime.browsers.check_intent(self.runtime.browsers.csrf_token(identity), self.headers)
        return identity


def _result(outcome: Identity | Exception) -> str:
    if isinstance(outcome, Identity):
        return "accepted"
    return "unavailable" if isinstance(outcome, KeysUnavailable) else "refused"
