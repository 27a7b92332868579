"""The order of precedence, as the head of `router` has it: each rule, and all of them against a naive reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.problems import BadRequest, MethodNotAllowed, NotFound
from gateway.claims import faces
from gateway.matching import Condition, Conditions, host_matches, host_rank
from gateway.router import Route, Router
from gateway.runtime import Runtime
from tests.unit import parts


@dataclass(frozen=True)
class Written:
    """A route as a file would have it, with what its service says."""

    name: str
    service: str = "a"
    hosts: tuple[str, ...] = ()  # of the service
    version: str = "1"
    prefix: str = "/a"
    template: str = "/<path:rest>"
    methods: tuple[str, ...] = ("*",)
    conditions: Conditions = Conditions()  # noqa: RUF009 - it is frozen

    @property
    def route(self) -> Route:
        service = parts.service(self.service, hosts=self.hosts, version=self.version)
        return Route(
            self.name, service, self.prefix, "", self.template, self.methods, parts.answering(), self.conditions
        )


@dataclass(frozen=True)
class Request:
    path: str
    method: str = "GET"
    host: str = "h"
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"))


def routed(written: Sequence[Written]) -> Router:
    router = Router()
    for one in written:
        router.add(one.route)
    return router


def outcome(router: Router, runtime: Runtime, request: Request) -> str:
    """The name of the route that gets the request, or the code of the problem."""
    exchange = parts.exchange(runtime, request.method, request.path, request.headers)
    exchange.forwarding = replace(exchange.forwarding, host=request.host)
    try:
        route = router.match(exchange)
    except (NotFound, BadRequest, MethodNotAllowed) as problem:
        return problem.code
    assert route is not None
    return route.name


def conditions(*, hosts: Sequence[str] = (), query: str = "", **headers: str) -> Conditions:
    return Conditions(
        tuple(hosts),
        tuple(Condition("header", name.replace("_", "-"), wanted) for name, wanted in headers.items()),
        (Condition("query", "q", query),) if query else (),
    )


def on(*hosts: str) -> Conditions:
    return conditions(hosts=hosts)


IS_1, X_A = conditions(x_a="1"), {"x-a": "1"}


@pytest.mark.parametrize(
    ("first", "second", "request_", "winner"),
    [
        # 1 host
        ({"hosts": ("b.a.example",)}, {"hosts": ("*.a.example",)}, Request("/a", host="b.a.example"), 1),
        ({"hosts": ("*.a.example",)}, {"hosts": ("*.example",)}, Request("/a", host="b.a.example"), 1),
        ({"hosts": ("*.example",)}, {}, Request("/a", host="a.example"), 1),
        ({"hosts": ("a.example:8443",)}, {"hosts": ("a.example",)}, Request("/a", host="a.example:8443"), 1),
        ({"hosts": ("a.example:8443",)}, {"hosts": ("a.example",)}, Request("/a", host="a.example"), 2),
        ({"hosts": ("a.example",)}, {"hosts": ("*.example:8443",)}, Request("/a", host="a.example:8443"), 1),
        ({"hosts": ("a.example",)}, {}, Request("/a", host="A.Example.:80"), 1),
        ({"hosts": ("a.example",)}, {}, Request("/a", host="b.example"), 2),
        ({"hosts": ("*.example",)}, {}, Request("/a", host="example"), 2),
        ({"hosts": ("[2001:db8::1]",)}, {}, Request("/a", host="[2001:DB8:0::1]:80"), 1),
        ({"hosts": ("a.example",), "prefix": "/b"}, {}, Request("/a", host="a.example"), 2),  # nobody there claims it
        ({"hosts": ("a.example",)}, {"prefix": "/a/b"}, Request("/a/b", host="a.example"), 1),  # before the prefix
        # 2 prefix
        ({"prefix": "/a/b"}, {"prefix": "/a"}, Request("/a/b/c"), 1),
        ({"prefix": "/a/b"}, {"prefix": "/a"}, Request("/a/bc"), 2),
        ({"prefix": "/a"}, {"prefix": ""}, Request("/a/b"), 1),
        ({"prefix": "/a"}, {"prefix": ""}, Request("/b"), 2),
        ({"prefix": "/a", "template": "/x"}, {"prefix": ""}, Request("/a/y"), "ROUTE_NOT_FOUND"),  # asked no further
        ({"prefix": "/api/a"}, {"prefix": "/a"}, Request("/api/a"), 1),  # what is written goes before a face
        ({"prefix": "/api/a"}, {"prefix": "/a"}, Request("/api/v1/a"), 2),
        # 3 version
        ({}, {"service": "a", "version": "2"}, Request("/a"), 1),
        ({}, {"service": "a", "version": "2"}, Request("/api/a"), 1),
        ({}, {"service": "a", "version": "2"}, Request("/api/v2/a"), 2),
        ({}, {"service": "a", "version": "2"}, Request("/a", headers={"api-version": "2"}), 2),
        ({}, {"service": "a", "version": "2"}, Request("/a", headers={"accept-version": "v2"}), 2),
        ({}, {"service": "a", "version": "2"}, Request("/api/v2/a", headers={"api-version": "1"}), "UNKNOWN_VERSION"),
        ({}, {"service": "a", "version": "2"}, Request("/a", headers={"api-version": "3"}), "UNKNOWN_VERSION"),
        ({}, {"service": "a", "version": "2"}, Request("/api/v3/a"), "UNKNOWN_VERSION"),
        # 4 template
        ({"template": "/x"}, {"template": "/<id>"}, Request("/a/x"), 1),
        ({"template": "/<id>"}, {"template": "/<path:rest>"}, Request("/a/x"), 1),
        ({"template": "/<id>"}, {"template": "/<path:rest>"}, Request("/a/x/y"), 2),
        ({"template": "/"}, {"template": "/<path:rest>"}, Request("/a"), 1),
        ({"template": "/x/<a>"}, {"template": "/<a>/y"}, Request("/a/x/y"), 1),
        ({"template": "/x/<path:a>"}, {"template": "/<a>/y"}, Request("/a/x/y"), 1),
        ({"template": "/x/y/z"}, {"template": "/<a>/y"}, Request("/a/x/y"), 2),
        # 5 method
        ({"template": "/<id>"}, {"template": "/x", "methods": ("PUT",)}, Request("/a/x"), 1),
        ({"template": "/x", "methods": ("GET",)}, {"template": "/<id>"}, Request("/a/x", "HEAD"), 1),
        ({"methods": ("HEAD",)}, {"methods": ("GET",)}, Request("/a", "HEAD"), 1),
        ({"methods": ("HEAD",), "conditions": IS_1}, {"methods": ("GET",)}, Request("/a", "HEAD"), 2),
        ({"methods": ("HEAD",)}, {"methods": ("GET",), "conditions": IS_1}, Request("/a", "HEAD", headers=X_A), 1),
        ({"methods": ("GET",), "conditions": IS_1}, {"methods": ("PUT",)}, Request("/a", "HEAD"), "ROUTE_NOT_FOUND"),
        ({"methods": ("GET",)}, {"methods": ("PUT",)}, Request("/a", "POST"), "METHOD_NOT_ALLOWED"),
        # 6 conditions
        ({"conditions": IS_1}, {}, Request("/a", headers=X_A), 1),
        ({"conditions": IS_1}, {}, Request("/a", headers={"x-a": "2"}), 2),
        ({"conditions": conditions(x_a="1", query="*")}, {"conditions": IS_1}, Request("/a?q", headers=X_A), 1),
        ({"conditions": on("a.b")}, {"conditions": on("*.b")}, Request("/a", host="a.b"), 1),
        ({"conditions": on("*.a.b")}, {"conditions": on("*.b")}, Request("/a", host="x.a.b"), 1),
        ({"conditions": on("a.b")}, {"conditions": on("a.b", "*.b")}, Request("/a", host="a.b"), 1),
        ({"conditions": on("a.b:81")}, {"conditions": on("a.b")}, Request("/a", host="a.b:81"), 1),
        ({"conditions": IS_1, "methods": ("*",)}, {"methods": ("GET",)}, Request("/a", headers=X_A), 1),  # before 7
        ({"conditions": IS_1}, {"conditions": conditions(x_b="1")}, Request("/a"), "ROUTE_NOT_FOUND"),
        # 7 a named method
        ({"methods": ("GET",)}, {"methods": ("*",)}, Request("/a"), 1),
        ({"methods": ("GET",)}, {"methods": ("*",)}, Request("/a", "PUT"), 2),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("order", [1, -1], ids=["in this order", "the other way round"])
def test_of_two_routes_the_rules_of_precedence_choose_one(
    runtime: Runtime,
    first: dict[str, object],
    second: dict[str, object],
    request_: Request,
    winner: int | str,
    order: int,
) -> None:
    written = [Written("1", **first), Written("2", **{"service": _other(first, second), **second})]  # pyright: ignore[reportArgumentType]

    router = routed(written[::order])

    assert outcome(router, runtime, request_) == str(winner)


def _other(first: Mapping[str, object], second: Mapping[str, object]) -> str:
    """The service of the second route: another one where they are told apart by host or prefix."""
    return "b" if {"hosts", "prefix"} & (first.keys() | second.keys()) else "a"


def test_of_routes_that_are_equal_otherwise_the_first_in_the_file_is_asked_first(runtime: Runtime) -> None:
    one, two = Written("1", conditions=IS_1), Written("2", conditions=conditions(x_b="*"))
    both = Request("/a", headers={"x-a": "1", "x-b": "1"})

    assert outcome(routed([one, two]), runtime, both) == "1"
    assert outcome(routed([two, one]), runtime, both) == "2"


NAMES = ("s", "t", "api", "v1", "v2")
HOSTS = ("a.b", "*.b", "*.a.b", "a.b:81", "*.b:81")
PREFIXES = ("", "/s", "/s/t", "/t", "/api/s", "/v1/s")
SEGMENTS = ("s", "t", "<x>")
CONDITIONS = [
    Conditions(), Conditions(), Conditions(), IS_1, conditions(x_a="*"), conditions(x_a="!"), conditions(query="1"),
    conditions(x_a="1", query="*"), on("a.b"), on("*.b", "c"), on("a.b:81"), on("*.b:81"), conditions(x_b="~1|2"),
]  # fmt: skip


@st.composite
def templates(draw: st.DrawFn) -> str:
    segments = draw(st.lists(st.sampled_from(SEGMENTS), max_size=2))
    rest = draw(st.sampled_from([[], ["<path:y>"]]))
    return "/" + "/".join([*segments, *rest])


methods = st.lists(st.sampled_from(["GET", "HEAD", "PUT", "*"]), min_size=1, max_size=2, unique=True).map(tuple)


@st.composite
def files(draw: st.DrawFn) -> list[Written]:
    """Routes of three services, without those that a file could not have besides the ones before."""
    services = {
        name: (tuple(draw(st.lists(st.sampled_from(HOSTS), max_size=2, unique=True))), draw(st.sampled_from(PREFIXES)))
        for name in "abc"
    }
    kept, router = list[Written](), Router()
    for number in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from("abc"))
        hosts, prefix = services[name]
        one = Written(
            str(number), name, hosts, draw(st.sampled_from("112")), prefix, draw(templates()), draw(methods),
            draw(st.sampled_from(CONDITIONS)),
        )  # fmt: skip
        try:
            router.add(one.route)
            kept.append(one)
        except ValueError:
            router = routed(kept)  # what it claimed before it was refused must not stay
    return kept


@st.composite
def requests(draw: st.DrawFn) -> Request:
    segments = draw(st.lists(st.sampled_from(NAMES), max_size=5))
    query = draw(st.sampled_from(["", "", "?q=1", "?q=2"]))
    return Request(
        f"/{'/'.join(segments)}{query}",
        draw(st.sampled_from(["GET", "HEAD", "PUT", "POST"])),
        draw(st.sampled_from(["a.b", "a.b:81", "x.a.b", "x.b:81", "b", "c", "A.B."])),
        draw(st.dictionaries(st.sampled_from(["x-a", "x-b", "api-version"]), st.sampled_from("12"))),
    )


@given(files(), st.lists(requests(), min_size=8, max_size=8))
@settings(max_examples=200, deadline=None)
def test_every_request_goes_where_a_naive_reading_of_the_rules_has_it(
    runtime: Runtime, written: list[Written], asked: list[Request]
) -> None:
    router = routed(written)

    for request in asked:
        assert outcome(router, runtime, request) == expected(written, request), (written, request)


def expected(written: Sequence[Written], request: Request) -> str:
    """The rules word by word: each route is looked at, nothing is indexed."""
    path, _, query = request.path.partition("?")
    segments = path.removesuffix("/").split("/")[1:]
    for owner, prefix, in_path, rest in claimed(written, request.host, segments):
        versions = {one.version for one in written if (one.service, one.prefix) == (owner, prefix)}
        asked = request.headers.get("api-version", in_path)
        if asked is not None and (asked not in versions or in_path not in (None, asked)):
            return "UNKNOWN_VERSION"
        version = asked or ("1" if "1" in versions else min(versions))
        fitting = [
            one
            for one in written
            if (one.service, one.prefix, one.version) == (owner, prefix, version)
            and kinds(one.template, rest) is not None
        ]
        return chosen(fitting, rest, request, query)
    known = {one.version for one in written} | {"1"}
    if len(segments) > 1 and segments[0] == "api" and segments[1] in ("v1", "v2"):
        of_owner = [
            {one.version for one in written if (one.service, one.prefix) == (owner, prefix)}
            for owner, prefix, _version, _rest in claimed(written, request.host, ["api", *segments[2:]])
        ]
        if segments[1][1:] not in (of_owner[0] if of_owner else known):
            return "UNKNOWN_VERSION"
    return "SERVICE_NOT_FOUND"


def claimed(
    written: Sequence[Written], host: str, segments: Sequence[str]
) -> Iterator[tuple[str, str, str | None, list[str]]]:
    """At most one: the service that claims the path, under which prefix, in what version, and what is left."""
    patterns = {pattern for one in written for pattern in one.hosts or ("",)}
    fitting = [pattern for pattern in patterns if pattern == "" or host_matches(pattern, host)]
    for pattern in sorted(fitting, key=lambda pattern: host_rank(pattern or None), reverse=True):
        best: list[tuple[int, bool, Written, str | None]] = []
        for one in written:
            for face in faces(one.version) if one.prefix else ("",):
                claim = [part for part in f"{face}{one.prefix}".split("/") if part]
                if pattern in (one.hosts or ("",)) and list(segments[: len(claim)]) == claim:
                    in_path = one.version if face.startswith("/api/v") else None
                    best.append((len(claim), face == "", one, in_path))
        if best:
            length, _written, one, in_path = max(best, key=lambda claim: claim[:2])
            yield one.service, one.prefix, in_path, list(segments[length:])
            return


def kinds(template: str, rest: Sequence[str]) -> tuple[int, ...] | None:
    """How telling a template is at each segment of what it fits, 0 the most; None if it does not fit."""
    found: list[int] = []
    wanted = [part for part in template.split("/") if part]
    for position, part in enumerate(wanted):
        if part.startswith("<path:"):
            return (*found, 2)
        if position >= len(rest) or (not part.startswith("<") and part != rest[position]):
            return None
        found.append(1 if part.startswith("<") else 0)
    return (*found, -1) if len(wanted) == len(rest) else None


def chosen(fitting: Sequence[Written], rest: Sequence[str], request: Request, query: str) -> str:
    def template(one: Written) -> tuple[int, ...]:
        return kinds(one.template, rest) or ()

    def holds(one: Written) -> bool:
        return one.conditions.hold(request.host, request.headers, query or None)

    for _kinds, group in groupby(sorted(fitting, key=template), key=template):
        ordered = sorted(group, key=rank)
        tries = [(request.method, [one for one in ordered if request.method != "HEAD" or "HEAD" in one.methods])]
        if request.method == "HEAD":
            tries.append(("GET", [one for one in ordered if "HEAD" not in one.methods]))
        for method, candidates in tries:
            for one in candidates:
                if (method in one.methods or "*" in one.methods) and holds(one):
                    return one.name
    taking = {request.method, "*"} | ({"GET"} if request.method == "HEAD" else set())
    is_taken = not fitting or any(taking & set(one.methods) for one in fitting)
    return "ROUTE_NOT_FOUND" if is_taken else "METHOD_NOT_ALLOWED"


def rank(one: Written) -> tuple[object, ...]:
    """Rules 6 to 8: how many conditions, how telling the host, whether the method is named, the place in the file."""
    hosts = [host_rank(host) for host in one.conditions.hosts] or [host_rank(None)]
    return -len(one.conditions), tuple(-part for part in min(hosts)), "*" in one.methods, int(one.name)


def test_the_cost_of_a_look_up_does_not_grow_with_routes_services_or_hosts(runtime: Runtime) -> None:
    def file(size: int) -> Router:
        written = [Written(f"r{n}", template=f"/r{n}/<id>/x{n}") for n in range(size)]
        written += [Written(f"s{n}", f"s{n}", prefix=f"/a/s{n}") for n in range(size // 10)]
        written += [Written(f"h{n}", f"h{n}", (f"h{n}.example", f"*.w{n}.example")) for n in range(size // 10)]
        return routed(written)

    small, large = file(400), file(10_000)

    for request in (
        Request("/a/r1/7/x1", host="h1.example"),
        Request("/a/r1/7/x1", host="b.c.w1.example"),
        Request("/a/r1/7/x1"),
        Request("/api/v1/a/s1/q"),
        Request("/nothing/here"),
    ):
        assert calls(small, runtime, request) == calls(large, runtime, request)


def calls(router: Router, runtime: Runtime, request: Request) -> int:
    """How many functions are called, in Python or in C, to find a request's route."""
    exchange = parts.exchange(runtime, request.method, request.path, request.headers)
    exchange.forwarding = replace(exchange.forwarding, host=request.host)
    count = 0

    def counting(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counting)
    try:
        router.find_service(exchange)
        list(router.candidates(exchange))
    except NotFound:
        pass
    finally:
        sys.setprofile(None)
    return count
