"""How order_service reads product_service's answers, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common import deadlines, logs, service_tokens
from common.problems import FieldError
from order_service.product_client import (
    Offer,
    OutOfStock,
    ProductClient,
    ProductError,
    ProductsUnavailable,
    ReservationConflict,
    ReservationGone,
    UnknownProduct,
)
from tests.support.deadlines import serving
from tests.support.ports import free_port
from tests.support.stub import StubService

SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
ORDER = "00000000-0000-4000-8000-000000000001"
HELD = {
    "id": ORDER,
    "status": "held",
    "lines": [{"product_id": 1, "name": "Mug", "quantity": 2, "unit_price": "12.50"}],
}


def _client(url: str, *, read_timeout_s: float = 0.3, connections: int = 5) -> ProductClient:
    return ProductClient(url, SECRET, connect_timeout_s=0.5, read_timeout_s=read_timeout_s, connections=connections)


@pytest.fixture
def stub() -> Iterator[StubService]:
    with StubService() as stub:
        yield stub


Respond = Callable[[int, object], ProductClient]


@pytest.fixture
def answering() -> Iterator[Respond]:
    """A client of a product_service that gives one JSON answer to everything."""
    servers: list[ThreadingHTTPServer] = []

    def answering(status: int, document: object) -> ProductClient:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Group-Invalidation", '"products"')
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_POST = do_DELETE = answer

            def log_message(self, format: str, *args: object) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return _client(f"http://127.0.0.1:{server.server_port}")

    yield answering
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_reservation_brings_names_prices_and_what_to_invalidate(answering: Respond) -> None:
    reserved = answering(200, HELD).reserve(ORDER, {1: 2})

    assert (reserved.offers, reserved.invalidates) == ({1: Offer("Mug", 1250)}, '"products"')


def test_confirming_and_releasing_bring_what_to_invalidate(answering: Respond) -> None:
    client = answering(200, HELD)

    assert (client.confirm(ORDER), client.release(ORDER)) == ('"products"', '"products"')


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (409, "OUT_OF_STOCK", OutOfStock),
        (422, "UNKNOWN_PRODUCT", UnknownProduct),
        (409, "RESERVATION_EXPIRED", ReservationGone),
        (404, "RESERVATION_NOT_FOUND", ReservationGone),
        (409, "RESERVATION_CONFLICT", ReservationConflict),
        (401, "INVALID_TOKEN", ProductsUnavailable),
        (422, "VALIDATION_ERROR", ProductsUnavailable),
        (503, "DATABASE_UNAVAILABLE", ProductsUnavailable),
        (500, "INTERNAL_ERROR", ProductsUnavailable),
    ],
)
def test_each_code_is_an_error_of_its_own(
    answering: Respond, status: int, code: str, error: type[ProductError]
) -> None:
    with pytest.raises(ProductError) as raised:
        answering(status, {"code": code, "detail": "why"}).reserve(ORDER, {1: 2})

    assert type(raised.value) is error


def test_a_refusal_keeps_its_words_and_faults(answering: Respond) -> None:
    fault = {"field": "lines.0.quantity", "message": "Only 1 left of product 1.", "in": "body"}

    with pytest.raises(OutOfStock, match="Only 1 left") as raised:
        answering(409, {"code": "OUT_OF_STOCK", "detail": "Only 1 left", "errors": [fault]}).reserve(ORDER, {1: 2})

    assert raised.value.faults == (FieldError("lines.0.quantity", "Only 1 left of product 1."),)


@pytest.mark.parametrize(
    "document",
    [[], "x", None, {}, {"lines": []}, HELD | {"lines": [{"product_id": 2, "name": "Pan", "unit_price": "1.00"}]},
     HELD | {"lines": [{"product_id": 1, "name": "Mug", "unit_price": "dear"}]}],
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_no_answer(answering: Respond, document: object) -> None:
    with pytest.raises(ProductsUnavailable):
        answering(200, document).reserve(ORDER, {1: 2})


@pytest.mark.parametrize(
    "behaviour",
    [
        "slow/2",
        "cut",
        "cut-head",
        "cut-chunked",
        "reset",
        "nothing",
        "garbage",
        "status/500",
        "status/302",
        "redirect",
        "bytes/9",
    ],
)
def test_a_product_service_that_misbehaves_is_unavailable(stub: StubService, behaviour: str) -> None:
    client = _client(f"{stub.url}/{behaviour}")

    with pytest.raises(ProductsUnavailable):
        client.reserve(ORDER, {1: 2})


def test_nobody_listening_is_unavailable() -> None:
    with pytest.raises(ProductsUnavailable):
        _client(f"http://127.0.0.1:{free_port()}").release(ORDER)


def test_a_connection_that_died_in_the_pool_is_replaced(stub: StubService) -> None:
    client = _client(f"{stub.url}/stale")

    client.release(ORDER)
    client.release(ORDER)

    assert len({request.connection for request in stub.requests}) >= 2


def test_a_call_carries_our_own_token_and_the_request_id(stub: StubService) -> None:
    logs.bind_request("req-of-the-caller")
    try:
        _client(stub.url).release(ORDER)
    finally:
        logs.bind_request("")

    (request,) = stub.requests
    token = str(request.header("Authorization")).removeprefix("Bearer ")
    assert service_tokens.verify(token, SECRET, audience="product_service") == "order_service"
    assert request.header("X-Request-ID") == "req-of-the-caller"
    assert (request.method, request.target) == ("DELETE", f"/reservations/{ORDER}")


def _told_ms(stub: StubService) -> list[int]:
    """What each call was said to have left."""
    return [int(str(request.header(deadlines.HEADER))) for request in stub.requests]


def test_without_a_request_a_call_is_told_the_clients_own_time_out(stub: StubService) -> None:
    _client(stub.url).release(ORDER)

    (told_ms,) = _told_ms(stub)
    assert 500 < told_ms <= 800


def test_a_request_with_plenty_of_time_leaves_the_clients_own_time_out(stub: StubService) -> None:
    with serving(60_000):
        _client(stub.url).release(ORDER)

    (told_ms,) = _told_ms(stub)
    assert 500 < told_ms <= 800


def test_each_call_is_told_what_is_left_of_the_request(stub: StubService) -> None:
    client = _client(stub.url)

    with serving(250) as clock:
        client.confirm(ORDER)
        clock.now += 0.125
        client.release(ORDER)

    assert _told_ms(stub) == [250, 125]


def test_a_call_ends_when_the_requests_time_does(stub: StubService) -> None:
    client = _client(f"{stub.url}/slow/2", read_timeout_s=30)

    with serving(200), pytest.raises(ProductsUnavailable):
        client.release(ORDER)

    assert len(stub.requests) == 1


CALLS: dict[str, Callable[[ProductClient], object]] = {
    "reserve": lambda client: client.reserve(ORDER, {1: 2}),
    "confirm": lambda client: client.confirm(ORDER),
    "release": lambda client: client.release(ORDER),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_call_is_made_when_nothing_is_left(stub: StubService, call: Callable[[ProductClient], object]) -> None:
    client = _client(stub.url)

    with serving(250) as clock:
        clock.now += 0.2501
        with pytest.raises(ProductsUnavailable):
            call(client)

    assert stub.connections == 0


def test_a_second_try_on_another_connection_is_told_what_is_left_too(stub: StubService) -> None:
    client = _client(f"{stub.url}/stale")

    with serving(250) as clock:
        client.release(ORDER)
        clock.now += 0.125
        client.release(ORDER)

    assert _told_ms(stub) == [250, 125, 125]


def test_whoever_finds_all_connections_in_use_waits_no_longer_than_the_request(stub: StubService) -> None:
    client = _client(f"{stub.url}/slow/1", read_timeout_s=30, connections=1)
    holding = Thread(target=client.release, args=(ORDER,))
    holding.start()
    stub.wait_for_requests(1)

    with serving(100), pytest.raises(ProductsUnavailable):
        client.release(ORDER)

    assert (holding.is_alive(), stub.connections) == (True, 1)
    holding.join()


@pytest.mark.parametrize("behaviour", ["cut", "status/500"])
def test_a_call_that_failed_gives_its_connection_back(stub: StubService, behaviour: str) -> None:
    client = _client(f"{stub.url}/{behaviour}", connections=1)
    with pytest.raises(ProductsUnavailable):
        client.release(ORDER)
    stub.clear()

    with pytest.raises(ProductsUnavailable):
        client.release(ORDER)

    assert stub.requests != []
