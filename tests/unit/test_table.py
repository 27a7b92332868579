"""The table of services and routes, compiled from a configuration, and what goes over from one to the next."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.yaml_file import parse
from gateway import EXPLICIT
from gateway.blueprints import ServiceBlueprint
from gateway.observability.metrics import Metrics
from gateway.runtime import Runtime
from gateway.services import ServicesError, configuration_of
from gateway.table import Table, compile_table
from tests.unit import parts

SETTINGS = parts.settings()
METRICS = Metrics()
TWO = "services:\n  a: {url: http://a}\n  b: {url: http://b, versions: {2: {url: http://c}}}\n"


def table(text: str, *, previous: Table | None = None, revision: int = 1) -> Table:
    configuration = configuration_of(parse(text, "f"), SETTINGS, {})
    return compile_table(configuration, EXPLICIT, SETTINGS, METRICS, revision=revision, previous=previous)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"))


def test_each_version_of_a_service_has_its_backend() -> None:
    compiled = table(TWO, revision=7)

    assert (compiled.revision, list(compiled.backends)) == (7, ["a", "b", "b@2"])
    assert [instance.url for instance in compiled.backends["b@2"].instances] == ["http://c"]
    assert compiled.services is compiled.configuration.services


def test_a_service_that_means_the_same_keeps_its_backend_and_another_one_does_not() -> None:
    before = table(TWO)
    after = table(
        TWO.replace("url: http://b", "timeout_s: 5, url: http://b").replace("  a:", "  # moved\n  a:"), previous=before
    )

    assert after.backends["a"] is before.backends["a"]
    assert after.backends["b"] is not before.backends["b"]
    assert after.backends["b"].service.timeout_s == 5


def test_the_instances_of_a_changed_service_stay_where_they_mean_the_same() -> None:
    before = table("services: {a: {instances: [http://a, http://b]}}")
    after = table("services: {a: {retries: 0, instances: [http://b, http://c]}}", previous=before)

    kept = before.backends["a"].instances[1]
    assert [instance.url for instance in after.backends["a"].instances] == ["http://b", "http://c"]
    assert after.backends["a"].instances[0] is kept


def test_a_service_that_is_gone_has_no_backend_and_no_routes() -> None:
    before = table(TWO)
    after = table("services: {b: {url: http://b}}", previous=before)

    assert (list(after.backends), after.router.prefixes) == (["b"], ["/b"])
    assert before.router.prefixes == ["/a", "/b"]


def test_routes_that_are_written_in_code_are_there_if_their_service_is_in_the_file() -> None:
    assert table("services: {users: {url: http://u}}").router.prefixes == ["/auth", "/users"]
    assert table("services: {a: {url: http://a}}").router.prefixes == ["/a"]


def test_a_service_of_the_file_has_its_routes_under_each_of_its_prefixes_with_the_place_of_each() -> None:
    text = (
        "services:\n  a:\n    url: http://a\n    prefixes: [/x, /y]\n    routes:\n    - path: /one\n    - path: /two\n"
    )

    routes = [(route.prefix, route.template, route.place) for route in table(text).router.routes]

    assert routes == [("/x", "/one", "f:6"), ("/x", "/two", "f:7"), ("/y", "/one", "f:6"), ("/y", "/two", "f:7")]


def test_a_prefix_that_code_and_file_both_claim_is_told_with_the_place_in_the_file() -> None:
    configuration = configuration_of(parse(TWO, "f"), SETTINGS, {})
    code = ServiceBlueprint("other", __name__, service="b", prefix="/a")
    code.proxy("/")(parts.answering())

    with pytest.raises(ServicesError) as caught:
        compile_table(configuration, [code], SETTINGS, METRICS)

    assert caught.value.problems == ["f:3:3: services.b: /a is claimed by a already"]


def test_ten_thousand_routes_are_compiled_and_found(runtime: Runtime, tmp_path: Path) -> None:
    lines = "".join(
        f"    - {{path: /r{number}/<id>, methods: [GET], roles: [r{number}]}}\n" for number in range(10_000)
    )
    compiled = table(f"services:\n  a:\n    url: http://a\n    routes:\n{lines}")

    route = compiled.router.match(parts.exchange(runtime, "GET", "/api/v1/a/r9876/7"))

    assert route is not None
    assert (route.place, route.service.roles) == ("f:9881", ("r9876",))
