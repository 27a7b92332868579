"""How order_service reads product_service's answers, over a real socket."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from common import logs, service_tokens
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
from tests.support.ports import free_port
from tests.support.stub import StubService

SECRET = "bT5nWq8ZsX1cV4mKj7hG2fD9pL6oI3uY"
ORDER = "00000000-0000-4000-8000-000000000001"
HELD = {
    "id": ORDER,
    "status": "held",
    "lines": [{"product_id": 1, "name": "Mug", "quantity": 2, "unit_price": "12.50"}],
}


def _client(url: str) -> ProductClient:
    return ProductClient(url, SECRET, connect_timeout_s=0.5, read_timeout_s=0.3)


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
