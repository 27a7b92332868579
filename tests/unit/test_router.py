"""Which route a request belongs to, and what is said when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from common.problems import BadRequest, MethodNotAllowed, NotFound
from gateway import create_app
from gateway.router import ANY, Route, Router
from gateway.runtime import Runtime
from tests.unit import parts

THINGS = parts.service("things")
OTHERS = parts.service("others")


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"))


def router(*templates: tuple[str, str]) -> Router:
    """A router of `things`; each pair is a template and its methods, by comma. A route is named after them."""
    made = Router()
    for template, methods in templates:
        wanted = tuple(methods.split(","))
        made.add(Route(f"{methods} {template}", THINGS, "/things", "/things", template, wanted, parts.answering()))
    return made


def matched(made: Router, runtime: Runtime, method: str, target: str, version: str | None = None) -> str | None:
    """The name of the route that takes a request."""
    headers = {} if version is None else {"api-version": version}
    route = made.match(parts.exchange(runtime, method, target, headers))
    return route.name if route else None


TABLE = router(
    ("/", "GET"),
    ("/", "POST"),
    ("/new", "GET"),
    ("/<id>", "GET,PUT"),
    ("/<id>/lines", "GET"),
    ("/<id>/lines/<line>", "GET"),
    ("/new/lines", "POST"),
    ("/<path:rest>", "DELETE"),
    ("/files/<path:rest>", "GET"),
)


@pytest.mark.parametrize(
    ("method", "target", "route"),
    [
        ("GET", "/things", "GET /"),
        ("GET", "/things/", "GET /"),
        ("POST", "/things?x=1", "POST /"),
        ("GET", "/things/new", "GET /new"),
        ("GET", "/things/new/", "GET /new"),
        ("GET", "/things/newer", "GET,PUT /<id>"),
        ("GET", "/things/7", "GET,PUT /<id>"),
        ("GET", "/things/7/", "GET,PUT /<id>"),
        ("PUT", "/things/new", "GET,PUT /<id>"),  # the literal does not take PUT
        ("DELETE", "/things/new", "DELETE /<path:rest>"),  # neither does <id>
        ("DELETE", "/things/7/lines/3/and/more", "DELETE /<path:rest>"),
        ("DELETE", "/things", "DELETE /<path:rest>"),
        ("GET", "/things/7/lines", "GET /<id>/lines"),
        ("GET", "/things/new/lines", "GET /<id>/lines"),  # back from a literal that leads nowhere
        ("POST", "/things/new/lines", "POST /new/lines"),
        ("GET", "/things/files/lines/x", "GET /files/<path:rest>"),
        ("GET", "/things/files/a//b", "GET /files/<path:rest>"),
        ("GET", "/things//", "GET,PUT /<id>"),
    ],
)
def test_the_most_specific_route_that_takes_the_method_wins(
    runtime: Runtime, method: str, target: str, route: str
) -> None:
    assert matched(TABLE, runtime, method, target) == route


def test_the_order_in_which_routes_are_added_does_not_matter(runtime: Runtime) -> None:
    backwards = router(("/<path:rest>", "*"), ("/<id>", "GET"), ("/new", "GET"))

    assert matched(backwards, runtime, "GET", "/things/new") == "GET /new"
    assert matched(backwards, runtime, "GET", "/things/7") == "GET /<id>"
    assert matched(backwards, runtime, "PATCH", "/things/new") == "* /<path:rest>"


def test_a_head_goes_where_the_get_goes(runtime: Runtime) -> None:
    assert matched(TABLE, runtime, "HEAD", "/things/new") == "GET /new"
    assert matched(router(("/", "GET"), ("/", "HEAD")), runtime, "HEAD", "/things") == "HEAD /"


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PROPFIND"])
def test_a_route_for_any_method_takes_them_all(runtime: Runtime, method: str) -> None:
    assert matched(router(("/", ",".join(ANY))), runtime, method, "/things") == "* /"


def test_a_named_method_goes_before_any_method(runtime: Runtime) -> None:
    made = router(("/", "*"), ("/", "POST"))

    assert matched(made, runtime, "POST", "/things") == "POST /"


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("PATCH", "/things/new", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("PATCH", "/things", "DELETE, GET, HEAD, OPTIONS, POST"),
        ("HEAD", "/things/7/unknown", "DELETE, OPTIONS"),
    ],
)
def test_method_that_no_route_takes_is_refused_with_those_that_are(
    runtime: Runtime, method: str, target: str, allow: str
) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        matched(TABLE, runtime, method, target)

    assert refused.value.headers == (("Allow", allow),)


def test_methods_are_told_apart_by_case(runtime: Runtime) -> None:
    exchange = parts.exchange(runtime, "GET", "/things/7")
    exchange.method = "get"

    with pytest.raises(MethodNotAllowed):
        TABLE.match(exchange)


def test_options_that_no_route_takes_is_answered_with_allow(runtime: Runtime) -> None:
    exchange = parts.exchange(runtime, "OPTIONS", "/things/new")

    answer = TABLE.dispatch(exchange)

    assert (answer.status, list(answer.body)) == (204, [])
    assert exchange.answer_headers == [("Allow", "DELETE, GET, HEAD, OPTIONS, PUT")]


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_path_without_a_route_is_not_found(runtime: Runtime, method: str) -> None:
    with pytest.raises(NotFound) as refused:
        matched(router(("/a/<id>", "GET")), runtime, method, "/things/a")

    assert refused.value.code == "ROUTE_NOT_FOUND"


@pytest.mark.parametrize(
    "target", ["/", "/unknown", "/api", "/api/v1", "/api/unknown", "//things", "/Things", "/v1/things"]
)
def test_unknown_service_is_not_found_and_the_known_ones_are_listed(runtime: Runtime, target: str) -> None:
    made = router(("/", "GET"))
    made.add(Route("others", OTHERS, "/others", "/others", "/", ("GET",), parts.answering()))

    with pytest.raises(NotFound, match=r"there are others, things\.$") as refused:
        matched(made, runtime, "GET", target)

    assert refused.value.code == "SERVICE_NOT_FOUND"


@pytest.mark.parametrize(("face", "segments"), [("", 1), ("/api", 2), ("/api/v1", 3)])
@pytest.mark.parametrize(("target", "rest"), [("/things/7/lines?x", "/7/lines"), ("/things", ""), ("/things/", "/")])
def test_each_face_leads_to_the_same_route_and_leaves_the_same_path(
    runtime: Runtime, face: str, segments: int, target: str, rest: str
) -> None:
    exchange = parts.exchange(runtime, "GET", face + target)

    route = TABLE.match(exchange)

    assert route is not None
    assert route is TABLE.match(parts.exchange(runtime, "GET", target))
    assert (exchange.route, exchange.service) == (route, THINGS)
    assert exchange.prefix_segments == segments
    assert exchange.target.after(segments) == rest


@pytest.mark.parametrize(
    "target", ["/%74hings/%6eew", "/%61pi/things/new", "/api/%76%31/things/new", "/thing%73/ne%77/"]
)
def test_an_encoded_spelling_routes_the_same(runtime: Runtime, target: str) -> None:
    assert matched(TABLE, runtime, "GET", target) == "GET /new"


@pytest.mark.parametrize("version", ["1", "v1", " 1 "])
@pytest.mark.parametrize("target", ["/things", "/api/things", "/api/v1/things"])
def test_a_known_version_may_be_asked_for_by_header(runtime: Runtime, target: str, version: str) -> None:
    assert matched(TABLE, runtime, "GET", target, version) == "GET /"


@pytest.mark.parametrize("version", ["2", "v2", "", "1.0", "vv1", "1, 1", "latest"])
def test_an_unknown_version_in_the_header_is_refused_and_the_known_ones_are_listed(
    runtime: Runtime, version: str
) -> None:
    with pytest.raises(BadRequest, match="one of: 1") as refused:
        matched(TABLE, runtime, "GET", "/things", version)

    assert refused.value.code == "UNKNOWN_VERSION"


@pytest.mark.parametrize(
    "target", ["/api/v2/things", "/api/v0/things", "/api/v11/things", "/api/v2", "/api/v01/things"]
)
def test_an_unknown_version_in_the_path_is_refused_and_the_known_ones_are_listed(runtime: Runtime, target: str) -> None:
    with pytest.raises(NotFound, match="known: 1") as refused:
        matched(TABLE, runtime, "GET", target)

    assert refused.value.code == "UNKNOWN_VERSION"


def versioned(prefix: str) -> Router:
    """`things` has versions 1 and 3 at `prefix`, `others` versions 1 and 2 at /others."""
    made = Router()
    for name, where, versions in (("things", prefix, "13"), ("others", "/others", "12")):
        for version in versions:
            service = parts.service(name, version=version)
            made.add(Route(f"{name} {version}", service, where, where, "/", ("GET",), parts.answering()))
    return made


@pytest.mark.parametrize("prefix", ["/things", "/shop/things"])
def test_the_versions_of_the_service_that_is_meant_are_listed(runtime: Runtime, prefix: str) -> None:
    made = versioned(prefix)

    assert matched(made, runtime, "GET", f"/api/v3{prefix}") == "things 3"
    with pytest.raises(NotFound, match="no version 2 here; known: 1, 3"):
        matched(made, runtime, "GET", f"/api/v2{prefix}")
    with pytest.raises(BadRequest, match="must be one of: 1, 3\\."):
        matched(made, runtime, "GET", prefix, "2")
    with pytest.raises(BadRequest, match="must be one of: 1, 3, and the path asks for 3"):
        matched(made, runtime, "GET", f"/api/v3{prefix}", "1")
    with pytest.raises(NotFound, match="no version 9 here; known: 1, 2, 3"):
        matched(made, runtime, "GET", "/api/v9/nobody")


def test_not_more_than_some_of_many_services_are_listed(runtime: Runtime) -> None:
    made = Router()
    for number in range(100):
        service = parts.service(f"s{number:02}")
        made.add(Route("x", service, f"/s{number:02}", "", "/", ("GET",), parts.answering()))

    with pytest.raises(NotFound, match=r"there are s00, s01, .*, s19, \.\.\.\."):
        matched(made, runtime, "GET", "/unknown")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("/", "GET"), ("/", "GET")),
        (("/a/", "GET"), ("/a", "GET")),
        (("/<id>", "GET"), ("/<name>", "PUT,GET")),
        (("/<path:rest>", "*"), ("/<path:all>", "*")),
        (("/a/<x>/b", "GET"), ("/a/<y>/b", "GET")),
    ],
)
def test_two_routes_for_the_same_requests_are_refused(first: tuple[str, str], second: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="there twice"):
        router(first, second)


def test_a_prefix_of_another_service_is_refused_and_a_face_of_it_too() -> None:
    made = router(("/", "GET"))
    for prefix in ("", "/v1/a"):
        made.add(Route("x", OTHERS, prefix, "", "/", ("GET",), parts.answering()))

    with pytest.raises(ValueError, match="/things is claimed by things already"):
        made.add(Route("x", OTHERS, "/things", "", "/x", ("GET",), parts.answering()))
    with pytest.raises(ValueError, match="/api/v1/a is claimed by others already"):
        made.add(Route("x", THINGS, "/a", "", "/", ("GET",), parts.answering()))
    with pytest.raises(ValueError, match=r"^/ is claimed by others already"):
        made.add(Route("x", THINGS, "", "", "/x", ("GET",), parts.answering()))


@pytest.mark.parametrize("template", ["/", "/a/b", "/<x>/b", "/<path:rest>", "/a/<path:rest>"])
@pytest.mark.parametrize("target", ["/things", "/api/v1/things/nothing/here", "/things/a/b"])
def test_the_service_of_a_path_is_known_whatever_its_routes_are(runtime: Runtime, template: str, target: str) -> None:
    made = router((template, "PUT"))

    assert made.find_service(parts.exchange(runtime, "GET", target)) is THINGS
    assert made.find_service(parts.exchange(runtime, "GET", "/others")) is None
    assert made.find_service(parts.exchange(runtime, "GET", target, {"api-version": "9"})) is None


def test_the_same_template_under_two_prefixes_is_two_routes() -> None:
    made = router(("/", "GET"))

    made.add(Route("alias", THINGS, "/stuff", "/things", "/", ("GET",), parts.answering()))

    made.add(Route("all", OTHERS, "", "", "/", ("GET",), parts.answering()))
    made.add(Route("all", OTHERS, "", "", "/x", ("GET",), parts.answering()))

    assert made.prefixes == ["/", "/stuff", "/things"]
    assert [route.prefix for route in made.routes] == ["/things", "/stuff", "", ""]


def test_the_routes_that_were_looked_at_are_told_up_to_the_one_that_matches(runtime: Runtime) -> None:
    seen = list(TABLE.candidates(parts.exchange(runtime, "PUT", "/things/new")))

    assert [(candidate.route.name, candidate.why_not) for candidate in seen] == [
        ("GET /new", "takes GET, not PUT"),
        ("GET,PUT /<id>", ""),
    ]


def test_a_head_is_told_as_such_where_no_route_takes_it(runtime: Runtime) -> None:
    seen = list(TABLE.candidates(parts.exchange(runtime, "HEAD", "/things/7/lines/3/4")))

    assert [candidate.why_not for candidate in seen] == ["takes DELETE, not HEAD"]


def test_the_handler_of_the_route_is_run_with_the_exchange(runtime: Runtime) -> None:
    made, calls = Router(), []
    made.add(Route("x", THINGS, "/things", "/things", "/", ("GET",), parts.answering(body=b"hello", calls=calls)))
    exchange = parts.exchange(runtime, "GET", "/things")

    answer = made.dispatch(exchange)

    assert (answer.status, answer.body, calls) == (200, (b"hello",), [exchange])


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    with parts.clean_environment():
        return create_app(parts.settings()).test_client()


@pytest.mark.parametrize("target", ["/api/v2/products", "/api/v2/products/1", "/api/v2/unknown"])
def test_an_unknown_version_is_told_as_such_by_the_whole_gateway(client: FlaskClient, target: str) -> None:
    answer = client.get(target)

    assert (answer.status_code, answer.get_json()["code"]) == (404, "UNKNOWN_VERSION")
    assert "known: 1" in answer.get_json()["detail"]


@pytest.mark.parametrize("target", ["/unknown", "/api/unknown", "/api/v1/unknown/", "/api", "/favicon.ico"])
def test_an_unknown_service_is_told_as_such_by_the_whole_gateway(client: FlaskClient, target: str) -> None:
    answer = client.get(target)

    assert (answer.status_code, answer.get_json()["code"]) == (404, "SERVICE_NOT_FOUND")
    assert "products" in answer.get_json()["detail"]


@pytest.mark.parametrize("face", ["", "/api", "/api/v1"])
@pytest.mark.parametrize("target", ["/%70roducts/1", "/products/1", "/products/1/", "/orders//a//"])
def test_each_spelling_of_a_known_path_reaches_the_router(client: FlaskClient, face: str, target: str) -> None:
    answer = client.patch(face + target)

    assert (answer.status_code, answer.get_json()["code"]) == (401, "TOKEN_REQUIRED")
