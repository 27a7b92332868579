"""Balancers: who gets the next request."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backend.balancing import Balancer, PeakEwma
from gateway.services_file import Strategy

STRATEGIES: tuple[Strategy, ...] = ("round-robin", "least-requests", "peak-ewma", "hash")


@dataclass
class Instance:
    url: str
    weight: float = 1.0
    in_flight: int = 0
    latency_s: float = 0.0


def instances(*weights: float) -> list[Instance]:
    return [Instance(f"http://10.0.0.{number}:80", weight) for number, weight in enumerate(weights, 1)]


def picks(balancer: Balancer, candidates: list[Instance], count: int) -> Counter[str]:
    return Counter(balancer.pick(candidates).url for _ in range(count))


def test_round_robin_gives_three_instances_a_hundred_of_three_hundred_each() -> None:
    candidates = instances(1, 1, 1)

    assert set(picks(Balancer("round-robin"), candidates, 300).values()) == {100}


def test_round_robin_is_smooth_where_weights_differ() -> None:
    a, b, c = candidates = instances(5, 1, 1)
    balancer = Balancer("round-robin")

    order = [balancer.pick(candidates) for _ in range(7)]

    assert order == [a, a, b, a, c, a, a]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_round_robin_is_exact_over_whole_turns(weights: list[int], turns: int) -> None:
    candidates = instances(*weights)

    counted = picks(Balancer("round-robin"), candidates, sum(weights) * turns)

    assert counted == {candidate.url: candidate.weight * turns for candidate in candidates}


def test_round_robin_goes_on_evenly_when_an_instance_leaves_and_comes_back() -> None:
    candidates = instances(1, 1, 1)
    balancer = Balancer("round-robin")
    picks(balancer, candidates, 7)

    without = picks(balancer, candidates[:2], 100)
    again = picks(balancer, candidates, 300)

    assert max(without.values()) - min(without.values()) <= 2
    assert max(again.values()) - min(again.values()) <= 4


def test_least_requests_goes_to_the_one_with_the_fewest_in_flight_for_its_weight() -> None:
    busy, idle, strong = instances(1, 1, 4)
    busy.in_flight, idle.in_flight, strong.in_flight = 3, 1, 3

    assert Balancer("least-requests").pick([busy, idle, strong]) is strong


def test_least_requests_takes_turns_among_equals() -> None:
    assert set(picks(Balancer("least-requests"), instances(1, 1, 1), 30).values()) == {10}


def test_peak_ewma_takes_the_better_of_two_that_were_drawn() -> None:
    slow, fast, unused = instances(1, 1, 1)
    slow.latency_s, fast.latency_s, unused.latency_s = 0.5, 0.01, 0.0
    draws = iter([0, 0])  # the first, then the one after it

    assert Balancer("peak-ewma", draw=lambda _n: next(draws)).pick([slow, fast, unused]) is fast


@given(st.integers(2, 8), st.data())
def test_peak_ewma_never_compares_an_instance_with_itself(count: int, data: st.DataObject) -> None:
    candidates = instances(*[1] * count)
    worst = data.draw(st.sampled_from(candidates))
    worst.latency_s = 9.0
    draws = [data.draw(st.integers(0, count - 1)), data.draw(st.integers(0, count - 2))]

    assert Balancer("peak-ewma", draw=lambda _n: draws.pop(0)).pick(candidates) is not worst


@given(st.text(max_size=30))
def test_hash_always_picks_the_same_for_a_key_whatever_the_order(key: str) -> None:
    candidates = instances(1, 1, 1, 1)

    assert Balancer("hash").pick(candidates, key) is Balancer("hash").pick(candidates[::-1], key)


def test_only_the_keys_of_an_instance_that_leaves_move() -> None:
    candidates, balancer = instances(1, 1, 1, 1), Balancer("hash")
    keys = [f"user-{number}" for number in range(400)]
    before = {key: balancer.pick(candidates, key) for key in keys}

    after = {key: balancer.pick(candidates[1:], key) for key in keys}

    assert all(after[key] is before[key] for key in keys if before[key] is not candidates[0])
    assert 50 < sum(before[key] is candidates[0] for key in keys) < 150


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_single_instance_gets_everything(strategy: Strategy) -> None:
    (only,) = instances(1)

    assert Balancer(strategy).pick([only], "key") is only


def test_expected_latency_jumps_up_with_a_slow_answer_and_comes_down_by_and_by() -> None:
    latency = PeakEwma(decay_s=10)

    latency.observe(1.0, now=0)
    peak = latency.value_s
    latency.observe(0.1, now=1)
    soon = latency.value_s
    latency.observe(0.1, now=60)

    assert peak == 1.0
    assert 0.85 < soon < 1.0
    assert latency.value_s < 0.11
