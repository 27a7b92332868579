"""Why does the gateway answer as it does? A request is judged without being sent: which route it belongs to and why the
other candidates lost, what each policy would say and where that is written, what the service would be asked for and
which instance would get it.

1. parser    is it HTTP?                                       (`rehearsing`)
2. edge      may its target and host be?                       (`edge`)
3. page      is it one of the gateway's own?                   (`blueprints`)
4. router    whose is it?                                      (`router`)
5. policies  may it pass? Each speaks in its turn              (`policies.layers`)
6. entrance  is there a place, in this worker?                 (`backend.shedding`)
7. backend   who would get it, and what would it be asked for? (`forwarding`, `backend`)

It stops where the request would be refused or answered. The parts are the very ones that serve requests. Used by
`flask --app gateway explain` and `test`, and by `/explain` on the operations listener.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

from flask import Flask
from pydantic import TypeAdapter

from common.codes import CODES
from common.problems import Problem, for_status
from gateway.backend.health import row_of
from gateway.backend.instance import Instance
from gateway.blueprints import is_own_page
from gateway.edge import check_target, exchange_of
from gateway.exchange import Exchange
from gateway.forwarding import outgoing_fields, outgoing_target
from gateway.incidents import own_file, place_of
from gateway.policies.layers import Answers, Layer, layers
from gateway.rehearsing import HeaderPairs, Rehearsal, environ_of
from gateway.rewriting import HeaderChanges
from gateway.router import Candidate, Route
from gateway.runtime import runtime_of
from gateway.services import NO_CHANGES

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Outcome = Literal["passes", "refuses", "answers"]

REQUEST_ID = "explain"
NOT_SHOWN = "(not shown)"
_SECRET_FIELDS = frozenset({"authorization", "proxy-authorization", "cookie", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Step:
    """What one part of the gateway says."""

    part: str  # parser, edge, page, router, a policy's name, backend
    outcome: Outcome
    words: str
    place: str = ""  # file:line of the configuration or the code that says so


@dataclass(frozen=True, slots=True)
class Explanation:
    """What would become of a request. `status` 0: the service's to say."""

    method: str
    target: str
    status: int
    code: str
    route: str
    service: str
    instance: str
    instances: tuple[tuple[str, str], ...]  # address and state of each, where the request gets that far
    outgoing: str  # what the service would be asked for, "" if nothing
    outgoing_headers: HeaderPairs
    response_headers: HeaderChanges  # what would be changed of the answer
    location: str  # of a redirect
    passed_over: tuple[str, ...]  # candidates that lost, each with the reason
    steps: tuple[Step, ...]

    @property
    def decided_by(self) -> str:
        """The part that refuses or answers, "" where the request passes."""
        return next((step.part for step in self.steps if step.outcome != "passes"), "")

    @property
    def passes(self) -> bool:
        return not self.decided_by

    @property
    def way_out(self) -> str:
        return way_out(self.code)

    @property
    def shown_headers(self) -> HeaderPairs:
        """`outgoing_headers` without credentials."""
        pairs = self.outgoing_headers
        return tuple((name, NOT_SHOWN if name.lower() in _SECRET_FIELDS else value) for name, value in pairs)

    def to_dict(self) -> dict[str, object]:
        """For JSON, without credentials."""
        more = {"outgoing_headers": self.shown_headers, "decided_by": self.decided_by, "way_out": self.way_out}
        return {**asdict(self), **more}


def from_dict(read: object) -> Explanation:
    """An explanation, as `to_dict` gave it and JSON brought it."""
    return TypeAdapter(Explanation).validate_python(read)


def way_out(code: str) -> str:
    """What to do about a problem, "" for a code that is not ours."""
    return next((known.way_out for known in CODES if known.name == code), "")


class _Sketch:
    """An explanation in the making."""

    def __init__(self, rehearsal: Rehearsal, may_look: bool) -> None:
        self.rehearsal, self.may_look = rehearsal, may_look
        self.is_decided = False
        self.status, self.code, self.location = 0, "", ""
        self.route: Route | None = None
        self.service = self.instance = self.outgoing = ""
        self.instances: tuple[tuple[str, str], ...] = ()
        self.outgoing_headers: HeaderPairs = ()
        self.response_headers = NO_CHANGES
        self.passed_over: tuple[str, ...] = ()
        self.steps: list[Step] = []

    def passed(self, part: str, words: str, place: str = "") -> None:
        self.steps.append(Step(part, "passes", words, place))

    def answered(self, part: str, status: int, words: str, place: str = "") -> None:
        self.status, self.is_decided = status, True
        self.steps.append(Step(part, "answers", words, place))

    def refused(self, part: str, problem: Problem, place: str = "") -> None:
        self.status, self.code, self.is_decided = problem.status, problem.code, True
        words = f"{problem.status} {problem.code}: {problem.detail}"
        self.steps.append(Step(part, "refuses", words, place or place_of(problem)))

    def done(self) -> Explanation:
        return Explanation(
            self.rehearsal.method, self.rehearsal.target, self.status, self.code, self.route.name if self.route else "",
            self.service, self.instance, self.instances, self.outgoing, self.outgoing_headers, self.response_headers,
            self.location, self.passed_over, tuple(self.steps),
        )  # fmt: skip


def explain(app: Flask, rehearsal: Rehearsal, *, may_look: bool) -> Explanation:
    """Judge `rehearsal` by the table in force. With `may_look` what is shared is looked at: counted requests, kept
    answers. Without, nobody outside of this process is asked, and instances that are to be found are taken for there.
    """
    sketch = _Sketch(rehearsal, may_look)
    runtime = runtime_of(app)
    try:
        environ = environ_of(rehearsal, runtime.settings)  # 1
    except Problem as problem:
        sketch.refused("parser", problem, "common/worker.py")
        return sketch.done()
    try:
        exchange = exchange_of(environ, runtime, REQUEST_ID)  # 2
        check_target(exchange)
    except Problem as problem:
        sketch.refused("edge", problem)
        return sketch.done()
    if rehearsal.identity is not None:
        exchange.speak_for(rehearsal.identity)
    sketch.passed("edge", f"a request of {exchange.forwarding.caller} to {exchange.forwarding.host}")
    for ask in (partial(_ask_pages, app, environ), _ask_router, _ask_policies, _ask_backend):  # 3 to 7
        if not sketch.is_decided:
            ask(sketch, exchange)
    if sketch.route and not sketch.code:
        sketch.response_headers = exchange.service.response_headers
    return sketch.done()


def _ask_pages(app: Flask, environ: WSGIEnvironment, sketch: _Sketch, exchange: Exchange) -> None:
    context = app.request_context(environ)
    context.match_request()
    request = context.request
    if not is_own_page(app, exchange, request):
        return
    if request.endpoint is None:
        sketch.refused("page", for_status(405, ""))
        return
    view = app.view_functions[request.endpoint]
    _ask_layers(sketch, exchange, view)
    if not sketch.is_decided:
        sketch.answered("page", 0, f"{request.endpoint}, a page of the gateway itself", _place_of_code(view))


def _place_of_code(view: Callable[..., object]) -> str:
    code = inspect.unwrap(view).__code__
    return f"{own_file(code.co_filename)}:{code.co_firstlineno}"


def _ask_router(sketch: _Sketch, exchange: Exchange) -> None:
    seen: list[Candidate] = []
    try:
        seen.extend(exchange.table.router.candidates(exchange))
        route = exchange.table.router.match(exchange)
    except Problem as problem:
        sketch.refused("router", problem)
        return
    finally:
        sketch.passed_over = tuple(_lost(candidate) for candidate in seen if candidate.why_not)
    if route is None:
        sketch.answered("router", 204, "OPTIONS is answered here, with Allow")
        return
    sketch.route, sketch.service = route, route.service.key
    sketch.passed("router", f"{_words(route)} of {route.service.key}", route.place)


def _words(route: Route) -> str:
    return f"{route.name} ({','.join(route.methods)} {route.prefix}{route.template})"


def _lost(candidate: Candidate) -> str:
    return f"{_words(candidate.route)}: {candidate.why_not}"


def _ask_policies(sketch: _Sketch, exchange: Exchange) -> None:
    _ask_layers(sketch, exchange, exchange.route.handler)


def _ask_layers(sketch: _Sketch, exchange: Exchange, handler: Callable[..., object]) -> None:
    for each in layers(handler):
        place = each.place or _written(exchange, each)
        try:
            sketch.passed(each.name, each.judge(exchange, sketch.may_look), place)
        except Problem as problem:
            sketch.refused(each.name, problem, place)
            return
        except Answers as answer:
            sketch.location = answer.location
            sketch.answered(each.name, answer.status, answer.words, place)
            return


_KEYS = {
    "limited": ("limits",),
    "sized": ("max_body",),
    "require_jwt": ("roles", "public"),
    "cached": ("cache",),
    "redirected": ("redirect",),
    "changed": ("response_headers",),
    "split": ("split",),
}
"""The keys of a service or route that ask for a policy."""


def _written(exchange: Exchange, each: Layer) -> str:
    """Where the services file asks for a policy: by a key of the service, else by the entry that implies it."""
    route = getattr(exchange, "route", None)
    if route is None:
        return ""
    configuration, service = exchange.table.configuration, exchange.service
    lines = (configuration.place(service, key) for key in _KEYS.get(each.name, ()))
    return next(filter(None, lines), "") or route.place or configuration.place(service)


def _ask_backend(sketch: _Sketch, exchange: Exchange) -> None:
    backend = exchange.table.backends[exchange.backend]
    sketch.service = exchange.backend
    sketch.outgoing, sketch.outgoing_headers = outgoing_target(exchange), tuple(outgoing_fields(exchange))
    sketch.instances = tuple((instance.url, state_of(instance)) for instance in backend.instances)
    place = exchange.table.configuration.place(backend.service)
    asked = f"{exchange.method} {sketch.outgoing}"
    if not backend.instances and not sketch.may_look:
        sketch.passed("backend", f"{asked} to one of {', '.join(backend.service.sources.texts)}", place)
        return
    if sketch.may_look:
        crowds = exchange.runtime.entrance.crowd, backend.crowd
        sketch.passed("entrance", "; ".join(filter(None, crowds)))
    try:
        sketch.instance = backend.would_pick(exchange.caller_key).url
    except Problem as problem:
        sketch.refused("backend", problem, place)
        return
    sketch.passed("backend", f"{asked} to {sketch.instance}, by {backend.service.balance}", place)


def state_of(instance: Instance) -> str:
    """`well`, `ejected, breaker open`."""
    row = row_of(instance)
    breaker = "" if row["breaker"] in ("closed", "off") else f", breaker {row['breaker']}"
    return f"{row['state']}{breaker}"
