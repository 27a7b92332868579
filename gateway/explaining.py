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
from functools import partial
from typing import TYPE_CHECKING

from flask import Flask

from common import deadlines
from common.problems import GatewayTimeout, Problem, for_status
from gateway.backend.fallback import REPLACED
from gateway.backend.health import row_of
from gateway.backend.instance import Instance
from gateway.blueprints import is_own_page
from gateway.edge import check_target, exchange_of
from gateway.exchange import Exchange
from gateway.explanation import Explanation, Step
from gateway.forwarding import outgoing_fields, outgoing_target
from gateway.policies.layers import Answers, Layer, layers
from gateway.rehearsing import HeaderPairs, Rehearsal, environ_of
from gateway.router import Candidate, Route
from gateway.runtime import runtime_of
from gateway.services import NO_CHANGES
from gateway.whence import own_file, place_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

REQUEST_ID = "explain"


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
    answers. Without, nobody outside of this process is asked but for the keys of a token, and instances that are to be
    found are taken for there.
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
    if exchange.target.fault is not None:  # which the edge let pass for a service
        sketch.refused("page", exchange.target.fault.problem)
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
    "limited": ("limits", "cost", "on_store_down"),
    "sized": ("max_body",),
    "addresses": ("deny_from", "allow_from"),
    "maintained": ("maintenance",),
    "require_jwt": ("roles", "permissions", "second_factor", "public"),
    "validated": ("validate",),
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
    if not exchange.service.is_verbatim and deadlines.parse(exchange.headers.get(deadlines.HEADER.lower())) == 0:
        over = GatewayTimeout("The time for this request was over before its work began.", code="DEADLINE_EXCEEDED")
        sketch.refused("backend", over, place)
        return
    if not backend.instances and not sketch.may_look:
        sketch.passed("backend", f"{asked} to one of {', '.join(backend.service.sources.texts)}", place)
        return
    if sketch.may_look:
        crowds = exchange.runtime.entrance.crowd, backend.crowd
        sketch.passed("entrance", "; ".join(filter(None, crowds)))
    try:
        sketch.instance = backend.would_pick(exchange.caller_key).url
    except Problem as problem:
        _fall_back(sketch, exchange, problem, place)
        return
    sketch.passed("backend", f"{asked} to {sketch.instance}, by {backend.service.balance}", place)
    if mirror := exchange.service.mirror:
        sketch.passed("mirror", f"{mirror.percent:g} % of such requests are copied to {mirror.service}", place)


def _fall_back(sketch: _Sketch, exchange: Exchange, problem: Problem, place: str) -> None:
    """What stands in for a problem; a kept answer is not looked for."""
    fallback = exchange.service.fallback
    if fallback is None or exchange.method not in ("GET", "HEAD") or problem.status not in REPLACED:
        sketch.refused("backend", problem, place)
        return
    words = f"{problem.status} {problem.code}: {problem.detail}"
    if fallback.status is None:
        sketch.refused("backend", problem, place)
        sketch.passed("fallback", "a kept answer would stand in, if there is one", place)
    else:
        sketch.passed("backend", words, place)
        which = "a kept answer, else the fixed one" if fallback.is_stale else "the fixed answer"
        sketch.answered("fallback", fallback.status, f"{which} of the services file stands in", place)


def state_of(instance: Instance) -> str:
    """`well`, `ejected, breaker open`."""
    row = row_of(instance)
    breaker = "" if row["breaker"] in ("closed", "off") else f", breaker {row['breaker']}"
    return f"{row['state']}{breaker}"
