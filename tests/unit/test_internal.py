"""How our processes ask each other: with a service token and the request's id, and once more on a lost connection."""

from __future__ import annotations

import pytest

from common import logs
from common.internal import Internal, InternalRefused, InternalUnavailable
from tests.support.stub import StubService


def internal(stub: StubService, behaviour: str = "echo") -> Internal:
    return Internal(f"{stub.url}/{behaviour}", "s" * 32, me="gateway", audience="user_service")


def test_a_question_carries_a_service_token_and_the_id_of_the_request_it_is_asked_for() -> None:
    with StubService() as stub:
        logs.bind_request("req-asked")
        try:
            internal(stub).get("/x", {"after": 1})
        finally:
            logs.bind_request("")
        internal(stub).get("/x")

        first, second = stub.requests
        assert first.target == "/echo/x?after=1"
        assert (first.header("Authorization") or "").startswith("Bearer ")
        assert (first.header("X-Request-ID"), second.header("X-Request-ID")) == ("req-asked", None)


def test_a_connection_that_was_closed_meanwhile_is_no_reason_to_fail() -> None:
    with StubService() as stub:
        asking = internal(stub, "stale")
        asking.post("/x", {})

        assert asking.post("/x", {"a": 1}) is not None
        assert [received.connection for received in stub.requests] == [1, 1, 2]


def test_who_never_answers_is_asked_twice_and_no_more() -> None:
    with StubService() as stub:
        with pytest.raises(InternalUnavailable):
            internal(stub, "reset").get("/x")

        assert len(stub.requests) == 2


@pytest.mark.parametrize(("behaviour", "error"), [("status/409", InternalRefused), ("status/503", InternalUnavailable)])
def test_an_answer_is_not_asked_for_again(behaviour: str, error: type[Exception]) -> None:
    with StubService() as stub:
        with pytest.raises(error):
            internal(stub, behaviour).get("/x")

        assert len(stub.requests) == 1
