"""Admission: who gets in, who waits, who is shed; and that no place is ever lost or given twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from typing import get_args

import gevent
import pytest
from gevent.timeout import Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.backend.admission import Gate, Priority, Shed

LONG_S = 60.0
SHORT_S = 0.01
PRIORITIES: tuple[Priority, ...] = get_args(Priority)


class Clock:
    """Seconds that pass when the test says so. The waits themselves go by the event loop's clock."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Callers at a gate, each in a greenlet that ends once its fate is known. A place is kept till the test leaves."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.entered: list[str] = []
        self.shed: dict[str, Shed] = {}
        self.callers: dict[str, gevent.Greenlet[..., None]] = {}

    def set_out(self, name: str, priority: Priority = "normal", wait_s: float | None = None) -> None:
        """Be on the way; arrive when others get to run."""
        self.callers[name] = gevent.spawn(self._enter, name, priority, wait_s)

    def arrive(self, *names: str, priority: Priority = "normal", wait_s: float | None = None) -> None:
        for name in names:
            self.set_out(name, priority, wait_s)
            settle()

    def leave(self, count: int = 1) -> None:
        for _ in range(count):
            self.gate.leave()
            settle()

    def kill(self, name: str, error: BaseException | None = None) -> None:
        self.callers[name].kill(error or gevent.GreenletExit(), block=False)

    def _enter(self, name: str, priority: Priority, wait_s: float | None) -> None:
        try:
            self.gate.enter(priority, wait_s=wait_s)
        except Shed as shed:
            self.shed[name] = shed
        except Timeout:
            pass  # of the caller's own; as good as killed
        else:
            self.entered.append(name)

    @property
    def reasons(self) -> dict[str, str]:
        return {name: shed.reason for name, shed in self.shed.items()}


OpenGate = Callable[..., Crowd]


def settle() -> None:
    """Let every greenlet run that can."""
    gevent.idle()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _bounded() -> Generator[None]:  # pyright: ignore[reportUnusedFunction] - pytest's
    with Timeout(30):
        yield


@pytest.fixture
def crowd_at(clock: Clock) -> Generator[OpenGate]:
    """`crowd_at(in_flight=..., queue=..., wait_s=...)`: callers in front of a new gate."""
    crowds: list[Crowd] = []

    def open_gate(*, in_flight: int, queue: int, wait_s: float = LONG_S) -> Crowd:
        crowds.append(Crowd(Gate(in_flight=in_flight, queue=queue, wait_s=wait_s, clock=clock)))
        return crowds[-1]

    yield open_gate
    for crowd in crowds:
        gevent.killall(list(crowd.callers.values()))


def test_as_many_enter_at_once_as_there_are_places(crowd_at: OpenGate) -> None:
    gate = crowd_at(in_flight=3, queue=5).gate
    others_ran: list[bool] = []
    gevent.spawn(others_ran.append, True)

    for _ in range(3):
        gate.enter()

    assert (gate.in_flight, gate.waiting) == (3, 0)
    assert others_ran == []  # nobody waited, not even for a moment
    settle()


def test_without_a_queue_the_next_one_is_shed_at_once(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=0)

    crowd.arrive("inside", "refused")

    assert crowd.entered == ["inside"]
    assert crowd.reasons == {"refused": "queue full"}
    assert crowd.shed["refused"].retry_after_s == 1


def test_a_place_that_was_left_can_be_taken_again(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=0)

    for name in "abc":
        crowd.arrive(name)
        crowd.leave()

    assert (crowd.entered, crowd.gate.in_flight) == (["a", "b", "c"], 0)


def test_a_waiter_gets_the_place_of_the_one_who_leaves(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside", "waiting")
    before = (crowd.gate.in_flight, crowd.gate.waiting)

    crowd.leave()

    assert before == (1, 1)
    assert crowd.entered == ["inside", "waiting"]
    assert (crowd.gate.in_flight, crowd.gate.waiting) == (1, 0)


def test_a_newcomer_does_not_overtake_one_who_was_handed_a_place_and_has_not_run_yet(
    crowd_at: OpenGate,
) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside", "waiting")

    crowd.gate.leave()
    with pytest.raises(Shed):
        crowd.gate.enter(wait_s=0)  # in the same moment
    settle()

    assert crowd.entered == ["inside", "waiting"]


def test_a_higher_class_goes_first_and_within_a_class_the_oldest(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=9)
    crowd.arrive("inside")
    crowd.arrive("low 1", "low 2", priority="low")
    crowd.arrive("normal 1", "normal 2", priority="normal")
    crowd.arrive("high 1", "high 2", priority="high")

    crowd.leave(6)

    assert crowd.entered == ["inside", "high 1", "high 2", "normal 1", "normal 2", "low 1", "low 2"]


@pytest.mark.parametrize("newcomer", PRIORITIES)
def test_a_full_queue_sheds_a_newcomer_whose_turn_would_be_last(crowd_at: OpenGate, newcomer: Priority) -> None:
    crowd = crowd_at(in_flight=1, queue=2)
    crowd.arrive("inside")
    crowd.arrive("waiting 1", "waiting 2", priority=newcomer)

    crowd.arrive("newcomer", priority=newcomer)
    crowd.leave(2)

    assert crowd.reasons == {"newcomer": "queue full"}
    assert crowd.entered == ["inside", "waiting 1", "waiting 2"]


@pytest.mark.parametrize(
    ("waiting", "newcomer", "pushed_out"),
    [
        (["low", "low", "normal"], "normal", 1),
        (["low", "low", "normal"], "high", 1),
        (["normal", "low", "high"], "high", 1),
        (["normal", "high", "normal"], "high", 2),
    ],
)
def test_a_higher_class_pushes_the_youngest_of_the_lowest_class_out_of_a_full_queue(
    crowd_at: OpenGate, waiting: list[Priority], newcomer: Priority, pushed_out: int
) -> None:
    crowd = crowd_at(in_flight=1, queue=3)
    crowd.arrive("inside")
    for number, priority in enumerate(waiting):
        crowd.arrive(str(number), priority=priority)

    crowd.arrive("newcomer", priority=newcomer)

    assert crowd.reasons == {str(pushed_out): "pushed out"}
    assert crowd.gate.waiting == 3
    crowd.leave(3)
    assert sorted(crowd.entered[1:]) == sorted({"0", "1", "2", "newcomer"} - {str(pushed_out)})


def test_a_lower_class_never_pushes_out_a_higher_one(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside")
    crowd.arrive("waiting", priority="normal")

    crowd.arrive("newcomer", priority="low")

    assert crowd.reasons == {"newcomer": "queue full"}


@pytest.mark.parametrize(("gate_wait_s", "own_wait_s"), [(SHORT_S, None), (SHORT_S, LONG_S), (LONG_S, SHORT_S)])
def test_nobody_waits_for_longer_than_the_gate_and_its_own_deadline_allow(
    gate_wait_s: float, own_wait_s: float | None
) -> None:
    gate = Gate(in_flight=1, queue=1, wait_s=gate_wait_s)
    gate.enter()
    began = time.monotonic()

    with pytest.raises(Shed) as refused:
        gate.enter(wait_s=own_wait_s)

    assert refused.value.reason == "waited too long"
    assert SHORT_S * 0.9 <= time.monotonic() - began < LONG_S / 2
    assert (gate.in_flight, gate.waiting) == (1, 0)


def test_a_place_that_comes_free_after_a_wait_was_in_vain_is_free(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside")
    crowd.arrive("impatient", wait_s=SHORT_S)
    crowd.callers["impatient"].join()

    crowd.leave()
    crowd.arrive("next", wait_s=0)

    assert crowd.entered == ["inside", "next"]


@pytest.mark.parametrize("time_left_s", [0.0, -1.0])
def test_one_whose_time_is_up_does_not_wait_and_pushes_nobody_out(crowd_at: OpenGate, time_left_s: float) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside")
    crowd.arrive("waiting", priority="low")

    crowd.arrive("late", priority="high", wait_s=time_left_s)

    assert crowd.reasons == {"late": "waited too long"}
    assert crowd.gate.waiting == 1


def test_one_whose_time_is_up_still_enters_where_there_is_a_place(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)

    crowd.arrive("late", wait_s=0)

    assert crowd.entered == ["late"]


@pytest.mark.parametrize("error", [gevent.GreenletExit(), Timeout(0)], ids=["killed", "timed out"])
@pytest.mark.parametrize("has_just_got_the_place", [False, True])
def test_a_place_is_not_lost_with_a_waiter_who_is_killed(
    crowd_at: OpenGate, error: BaseException, has_just_got_the_place: bool
) -> None:
    crowd = crowd_at(in_flight=1, queue=2)
    crowd.arrive("inside", "killed", "next")

    crowd.kill("killed", error)  # takes effect when the test lets others run
    if has_just_got_the_place:
        crowd.leave()
    else:
        settle()
        crowd.leave()

    assert crowd.entered == ["inside", "next"]
    crowd.leave()
    assert (crowd.gate.in_flight, crowd.gate.waiting) == (0, 0)


def test_a_place_handed_to_the_last_waiter_is_given_back_when_it_is_killed(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside", "killed")

    crowd.kill("killed")
    crowd.leave()

    assert (crowd.gate.in_flight, crowd.gate.waiting) == (0, 0)


def test_one_who_is_killed_after_being_pushed_out_gives_back_no_place(crowd_at: OpenGate) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside")
    crowd.arrive("pushed out", priority="low")
    crowd.kill("pushed out")

    with pytest.raises(Timeout), Timeout(SHORT_S):
        crowd.gate.enter("high")  # nobody else runs before it waits
    settle()

    assert (crowd.gate.in_flight, crowd.gate.waiting) == (1, 0)


def test_in_a_line_that_stands_the_newest_goes_first(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=9, wait_s=LONG_S)
    crowd.arrive("inside", "1", "2", "3")

    crowd.leave()
    clock.now += LONG_S
    crowd.leave(2)

    assert crowd.entered == ["inside", "1", "3", "2"]


def test_once_a_line_was_empty_the_oldest_goes_first_again(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=9)
    crowd.arrive("inside", "1")
    clock.now += LONG_S
    crowd.leave()

    crowd.arrive("2", "3")
    crowd.leave(2)

    assert crowd.entered == ["inside", "1", "2", "3"]


def test_a_standing_line_of_a_lower_class_does_not_turn_the_order_of_a_higher_one(
    crowd_at: OpenGate, clock: Clock
) -> None:
    crowd = crowd_at(in_flight=1, queue=9)
    crowd.arrive("inside")
    crowd.arrive("low 1", "low 2", priority="low")
    clock.now += LONG_S
    crowd.arrive("high 1", "high 2", priority="high")

    crowd.leave(4)

    assert crowd.entered == ["inside", "high 1", "high 2", "low 2", "low 1"]


@pytest.mark.parametrize("newcomer", ["low", "normal"])
def test_in_a_line_that_stands_the_oldest_makes_room(crowd_at: OpenGate, clock: Clock, newcomer: Priority) -> None:
    crowd = crowd_at(in_flight=1, queue=2)
    crowd.arrive("inside")
    crowd.arrive("1", "2", priority="low")
    clock.now += LONG_S

    crowd.arrive("newcomer", priority=newcomer)
    crowd.leave(2)

    assert crowd.reasons == {"1": "pushed out"}
    assert crowd.entered == ["inside", "newcomer", "2"]


def test_a_queue_of_one_keeps_standing_when_its_only_waiter_is_replaced(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside", "1")
    clock.now += LONG_S

    crowd.arrive("2", "3")

    assert crowd.reasons == {"1": "pushed out", "2": "pushed out"}


@pytest.mark.parametrize("load", [2, 3])
def test_under_twice_the_load_and_more_as_many_are_served_in_time_as_the_service_can_bear(
    crowd_at: OpenGate, clock: Clock, load: int
) -> None:
    crowd = crowd_at(in_flight=4, queue=30, wait_s=LONG_S)
    turn_s, turns, bearable_a_turn = LONG_S / 6, 60, 2
    arrived_at: dict[str, float] = {}
    crowd.arrive(*"abcd")

    in_time = 0
    for _ in range(turns):
        clock.now += turn_s
        for _ in range(load * bearable_a_turn):
            name = f"caller {len(arrived_at)}"
            arrived_at[name] = clock.now
            crowd.arrive(name)
        crowd.leave(bearable_a_turn)
        in_time += sum(clock.now - arrived_at[name] <= 2 * turn_s for name in crowd.entered[-bearable_a_turn:])

    assert len(crowd.entered) == 4 + turns * bearable_a_turn
    assert in_time >= 0.9 * turns * bearable_a_turn


def test_who_is_shed_is_told_how_long_as_many_places_took_as_are_waited_for(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=8)
    crowd.arrive("inside", *"12345678")
    for number in range(3):  # one place in half a second
        clock.now += 0.5
        crowd.leave()
        crowd.arrive(f"more {number}")
    clock.now += 0.5

    crowd.arrive("refused")

    assert crowd.shed["refused"].retry_after_s == 4


@pytest.mark.parametrize(
    ("seconds_without_a_place", "retry_after_s"), [(0, 1), (0.1, 1), (0.6, 2), (1.5, 3), (2, 4), (30, 10), (9999, 10)]
)
def test_retry_after_stays_within_its_bounds(
    crowd_at: OpenGate, clock: Clock, seconds_without_a_place: float, retry_after_s: int
) -> None:
    crowd = crowd_at(in_flight=1, queue=2, wait_s=LONG_S)
    crowd.arrive("inside", "1", "2")
    clock.now += seconds_without_a_place

    crowd.arrive("3", priority="low")

    assert crowd.shed["3"].retry_after_s == retry_after_s


def test_a_service_that_was_fast_and_hangs_is_not_called_fast_for_long(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=2)
    crowd.arrive("inside", "1", "2")
    for number in range(50):
        clock.now += 0.1
        crowd.leave()
        crowd.arrive(f"more {number}")
    crowd.arrive("while fast", priority="low")

    for number in range(3):
        clock.now += 4
        crowd.arrive(f"hanging {number}", priority="low")

    advice = [shed.retry_after_s for shed in crowd.shed.values()]
    assert advice[0] == 1
    assert advice[-1] == 10


def test_a_service_that_was_fast_for_long_and_turns_slow_is_judged_by_what_it_does_now(
    crowd_at: OpenGate, clock: Clock
) -> None:
    crowd = crowd_at(in_flight=1, queue=2)
    crowd.arrive("inside", "1", "2")
    for number, seconds in enumerate([0.1] * 300 + [3.0] * 4):
        clock.now += seconds
        crowd.leave()
        crowd.arrive(str(number))

    crowd.arrive("refused", priority="low")

    assert 3 <= crowd.shed["refused"].retry_after_s <= 6


def test_a_quiet_time_before_the_queue_says_nothing_about_the_pace(crowd_at: OpenGate, clock: Clock) -> None:
    crowd = crowd_at(in_flight=1, queue=1)
    crowd.arrive("inside", "1")
    crowd.leave()
    clock.now += 3600

    crowd.arrive("2", "refused")

    assert crowd.shed["refused"].retry_after_s == 1


HAPPENINGS = st.sampled_from(["arrive", "arrive", "arrive", "leave", "leave", "kill", "time passes"])


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 3), st.integers(0, 4), st.lists(st.tuples(HAPPENINGS, st.integers(0, 30))), st.booleans())
def test_in_any_order_of_events_no_place_is_lost_or_given_twice_and_nobody_is_forgotten(
    in_flight: int, queue: int, steps: list[tuple[str, int]], settles_after_each: bool
) -> None:
    clock = Clock()
    crowd = Crowd(Gate(in_flight=in_flight, queue=queue, wait_s=LONG_S, clock=clock))
    gate = crowd.gate
    left = 0
    for what, number in steps:
        if what == "arrive":
            crowd.set_out(f"caller {len(crowd.callers)}", PRIORITIES[number % 3])
        elif what == "leave" and left < len(crowd.entered):
            left += 1
            gate.leave()
        elif what == "kill" and crowd.callers:
            crowd.kill(list(crowd.callers)[number % len(crowd.callers)])
        else:
            clock.now += LONG_S * number / 20
        if settles_after_each:
            settle()
        assert gate.in_flight <= in_flight
        assert gate.waiting <= queue
        assert gate.waiting == 0 or gate.in_flight == in_flight, "a place is idle while somebody waits"
        assert gate.in_flight >= len(crowd.entered) - left

    settle()
    assert gate.in_flight == len(crowd.entered) - left
    assert gate.waiting == sum(not caller.ready() for caller in crowd.callers.values())
    while left < len(crowd.entered):
        crowd.leave()
        left += 1
    assert all(caller.ready() for caller in crowd.callers.values())
    assert (gate.in_flight, gate.waiting) == (0, 0)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sampled_from(PRIORITIES), max_size=12), st.lists(st.booleans(), max_size=12))
def test_nobody_is_served_while_one_of_a_higher_class_waits(
    arrivals: list[Priority], is_standing_at_leave: list[bool]
) -> None:
    clock = Clock()
    crowd = Crowd(Gate(in_flight=1, queue=6, wait_s=LONG_S, clock=clock))
    class_of: dict[str, Priority] = {}
    crowd.arrive("inside")
    for number, priority in enumerate(arrivals):
        class_of[str(number)] = priority
        crowd.arrive(str(number), priority=priority)

    for is_standing in is_standing_at_leave:
        clock.now += LONG_S if is_standing else 0
        crowd.leave(1 if crowd.gate.in_flight else 0)

    classes = [class_of[name] for name in crowd.entered[1:]]
    assert classes == sorted(classes, key=PRIORITIES.index)
    crowd.leave(crowd.gate.in_flight + crowd.gate.waiting)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 4),
    st.integers(0, 5),
    st.lists(
        st.tuples(st.sampled_from(PRIORITIES), st.integers(0, 4), st.sampled_from([None, 0.0, 0.0005, 0.002])),
        max_size=40,
    ),
)
def test_callers_side_by_side_are_never_more_than_there_are_places_and_each_is_served_or_shed(
    in_flight: int, queue: int, plans: list[tuple[Priority, int, float | None]]
) -> None:
    gate = Gate(in_flight=in_flight, queue=queue, wait_s=0.004)
    fates: Counter[str] = Counter()
    inside = most_inside = 0

    def call(priority: Priority, naps: int, wait_s: float | None) -> None:
        nonlocal inside, most_inside
        for _ in range(naps):
            gevent.sleep(0)
        try:
            gate.enter(priority, wait_s=wait_s)
        except Shed as shed:
            fates[shed.reason] += 1
            return
        try:
            inside += 1
            most_inside = max(most_inside, inside)
            gevent.sleep(0.0005 * naps)
            inside -= 1
        finally:
            gate.leave()
        fates["served"] += 1

    with Timeout(10):
        gevent.joinall([gevent.spawn(call, *plan) for plan in plans], raise_error=True)

    assert most_inside <= in_flight
    assert fates.total() == len(plans)
    assert (gate.in_flight, gate.waiting) == (0, 0)
