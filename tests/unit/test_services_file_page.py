"""docs/services-file.md: each of its files can be used, and does what the page says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from common.problems import Problem
from common.yaml_file import parse
from gateway import EXPLICIT
from gateway.exchange import Exchange
from gateway.observability.metrics import Metrics
from gateway.router import Router
from gateway.runtime import Runtime
from gateway.services import ServicesError, configuration_of
from gateway.table import compile_table
from tests.unit import parts

PAGE = (Path(__file__).resolve().parents[2] / "docs/services-file.md").read_text()
SETTINGS = parts.settings()
METRICS = Metrics()
BLOCKS = re.findall(r"```(yaml|text)\n(.*?)```", PAGE, re.DOTALL)
TOLD = {
    text: BLOCKS[position + 1][1]
    for position, (_kind, text) in enumerate(BLOCKS[:-1])
    if BLOCKS[position + 1][0] == "text"
}
GOOD = [text for kind, text in BLOCKS if kind == "yaml" and text not in TOLD]
ROWS = re.findall(r"^\| `([A-Z]+) (\S+)`(?: with (.*?))? \| `(.*?)` \| [1-8] \|$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"))


@pytest.mark.parametrize("text", GOOD, ids=range(len(GOOD)))
def test_each_file_that_the_page_shows_can_be_used_and_has_nothing_odd(text: str) -> None:
    configuration = configuration_of(parse(text, "services.yaml"), SETTINGS, {})

    assert configuration.warnings == ()
    assert compile_table(configuration, EXPLICIT, SETTINGS, METRICS).router.routes


@pytest.mark.parametrize("text", TOLD, ids=range(len(TOLD)))
def test_what_the_page_says_of_the_others_is_what_is_said(text: str) -> None:
    try:
        told = configuration_of(parse(text, "services.yaml"), SETTINGS, {}).warnings
    except ServicesError as error:
        told = tuple(error.problems)

    assert tuple(TOLD[text].splitlines()) == told


@pytest.mark.parametrize(("method", "target", "fields", "goes_to"), ROWS)
def test_each_request_goes_where_the_page_says(
    runtime: Runtime, method: str, target: str, fields: str, goes_to: str
) -> None:
    text = next(text for text in GOOD if "partners" in text)
    router = compile_table(configuration_of(parse(text, "f"), SETTINGS, {}), EXPLICIT, SETTINGS, METRICS).router
    headers = {name.lower(): value for name, value in re.findall(r"`([\w-]+): (.*?)`", fields)}
    exchange = parts.exchange(runtime, method, target, headers)
    exchange.forwarding = replace(exchange.forwarding, host=headers.get("host", "h"))

    assert goes_to in outcomes(router, exchange)


def outcomes(router: Router, exchange: Exchange) -> tuple[str, ...]:
    """The names of the route and of the service that get a request, or the code of the problem."""
    try:
        route = router.match(exchange)
    except Problem as problem:
        return (problem.code,)
    assert route is not None
    return route.name, route.service.key


def test_the_page_has_examples_and_rows() -> None:
    assert (len(GOOD) >= 7, len(TOLD), len(ROWS) >= 20) == (True, 2, True)


def test_the_page_has_the_rules_of_the_router() -> None:
    rules = re.findall(r"^\| ([1-8]) \| (\w+) \|", PAGE, re.MULTILINE)

    assert [int(number) for number, _rule in rules] == list(range(1, 9))
    assert [rule for _number, rule in rules] == [
        "host", "prefix", "version", "path", "method", "conditions", "method", "order",
    ]  # fmt: skip
