"""`Server-Timing`: how long each stage of a request took, where that was asked for."""

from __future__ import annotations

import pytest

from tests.integration.conftest import SERVICES, Gateway, GatewayFactory, bearer
from tests.support.ports import free_port
from tests.support.stub import StubService
from tests.support.wire import RawAnswer


@pytest.fixture(scope="module")
def gateway(start_gateway: GatewayFactory) -> Gateway:
    return start_gateway(SERVER_TIMING="true")


def timings(answer: RawAnswer) -> dict[str, float]:
    """Milliseconds by stage."""
    parts = [part.partition(";dur=") for part in str(answer.header("Server-Timing")).split(", ")]
    return {stage: float(ms) for stage, _, ms in parts}


def test_each_stage_is_told_and_together_they_are_no_more_than_all_of_it(gateway: Gateway) -> None:
    told = timings(gateway.get("/orders", bearer("somebody")))

    total_ms = told.pop("total")
    assert [*told] == ["route", "auth", "limits", "cache", "prepare", "instance", "service"]
    assert all(ms >= 0 for ms in told.values())
    assert sum(told.values()) <= total_ms + 0.01  # rounded


def test_what_a_service_takes_is_its_own(gateway: Gateway) -> None:
    told = timings(gateway.get("/open/slow/0.3"))

    assert told["service"] >= 300
    assert "auth" not in told or told["auth"] < 300
    assert told["total"] >= told["service"]


def test_a_kept_answer_came_from_the_cache_and_from_no_service(gateway: Gateway) -> None:
    gateway.get("/kept/cacheable?cc=max-age%3D60")

    told = timings(gateway.get("/kept/cacheable?cc=max-age%3D60"))

    assert "cache" in told
    assert "service" not in told


def test_a_refusal_tells_the_stages_that_it_came_to(gateway: Gateway) -> None:
    told = timings(gateway.get("/orders", [("Authorization", "Bearer nonsense")]))

    assert [*told] == ["route", "auth", "limits", "total"]


def test_a_second_try_beside_the_first_takes_nothing_from_its_time(start_gateway: GatewayFactory) -> None:
    with StubService(free_port()) as one, StubService(free_port()) as other:
        both = f'instances: ["{one.url}", "{other.url}"], public: true, path: /'
        hedged = f"  hedged: {{{{{both}, hedge: {{{{after_ms: 200, budget: 1}}}}}}}}\n"
        gateway = start_gateway(services=SERVICES + hedged, SERVER_TIMING="true")

        told = timings(gateway.get("/hedged/slow/0.5"))

        assert len(one.requests) == len(other.requests) == 1
        assert told["service"] >= 500


def test_nobody_is_told_unless_the_operator_wants_it(start_gateway: GatewayFactory) -> None:
    assert start_gateway().get("/orders", bearer("somebody")).header("Server-Timing") is None
