"""product_service as order_service sees it: stock, reserved by the order's id.

Each call may be repeated at will; product_service makes sure that nothing is taken or given back twice.

A call may take its two time-outs together, or what is left of the request being served if that is less: the wait for a
connection, a second try and an answer that comes in drops included. Once nothing is left no call is made. Both end like
any other time-out.

ProductError
├── ProductsUnavailable        no answer, or none that makes sense; nobody knows whether the call had an effect
├── Refused                    nothing was taken, and asking again will not help; carries the faults
│   ├── OutOfStock
│   └── UnknownProduct
├── ReservationGone            it has expired or was never made; reserving again may help
└── ReservationConflict        it was released, or made for other products
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import cast

import gevent
import requests
import structlog
from pydantic import BaseModel, Field, ValidationError

from common import deadlines, service_tokens
from common.deadlines import Deadline
from common.http import again_on_a_lost_connection, tuned_session
from common.logs import current_request_id
from common.models import Price
from common.problems import FieldError

CONNECTIONS = 50  # for each worker
log = structlog.get_logger("products")


class ProductError(Exception):
    """product_service did not do what was asked."""


class ProductsUnavailable(ProductError):
    pass


class Refused(ProductError):
    """The text and the faults are product_service's, and may be told to the caller."""

    def __init__(self, text: str, faults: Iterable[FieldError] = ()) -> None:
        super().__init__(text)
        self.faults = tuple(faults)


class OutOfStock(Refused):
    pass


class UnknownProduct(Refused):
    pass


class ReservationGone(ProductError):
    pass


class ReservationConflict(ProductError):
    pass


@dataclass(frozen=True, slots=True)
class Offer:
    """What one product is called and costs. `unit_price` is in minor units."""

    name: str
    unit_price: int


@dataclass(frozen=True, slots=True)
class Reserved:
    """`offers` by product id; `invalidates` is the answer's Cache-Group-Invalidation (RFC 9875)."""

    offers: Mapping[int, Offer]
    invalidates: str


class ProductClient:
    """Shared by all greenlets of a worker; the session's connection pool protects itself.

    There are as many places as connections, so that nobody has to wait in the pool, where a wait can't be cut short.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        *,
        connect_timeout_s: float,
        read_timeout_s: float,
        connections: int = CONNECTIONS,
    ) -> None:
        self._url = url
        self._secret = secret
        self._timeouts_s = (connect_timeout_s, read_timeout_s)
        self._session = tuned_session(pool_size=connections)
        self._places = BoundedSemaphore(connections)

    def reserve(self, order_id: str, quantities: Mapping[int, int]) -> Reserved:
        """Hold these quantities by product id, all or nothing."""
        lines = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in quantities.items()]
        answer = self._call("PUT", f"/reservations/{order_id}", {"lines": lines})
        try:
            reservation = _Reservation.model_validate_json(answer.content)
        except ValidationError as error:
            raise _unavailable("answer not understood") from error
        offers = {line.product_id: Offer(line.name, line.unit_price) for line in reservation.lines}
        if offers.keys() != quantities.keys():
            raise _unavailable("answer about other products")
        return Reserved(offers, _invalidation(answer))

    def confirm(self, order_id: str) -> str:
        """Keep what is held. Returns the answer's Cache-Group-Invalidation, as `release` does."""
        return _invalidation(self._call("POST", f"/reservations/{order_id}/confirm"))

    def release(self, order_id: str) -> str:
        """Give back what is held or kept, and let nothing be taken for this order any more."""
        return _invalidation(self._call("DELETE", f"/reservations/{order_id}"))

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> requests.Response:
        deadline = deadlines.outgoing(sum(self._timeouts_s))
        if not self._places.acquire(timeout=deadline.left_s()):
            raise _unavailable("all connections in use")
        try:
            answer = again_on_a_lost_connection(lambda: self._send(method, path, body, deadline))
        except requests.RequestException as error:
            raise _unavailable(type(error).__name__) from error
        finally:
            self._places.release()
        if not 200 <= answer.status_code < 300:
            raise _error(answer)
        return answer

    def _send(self, method: str, path: str, body: Mapping[str, object] | None, deadline: Deadline) -> requests.Response:
        if left_s := deadline.left_s():
            connect_s, read_s = self._timeouts_s
            # requests' time-outs begin anew with each byte that comes. gevent's does not, and strikes in a worker only:
            # a command's sockets don't yield to it
            with gevent.Timeout(left_s, cast("None", False)):  # False: silent
                return self._session.request(
                    method,
                    self._url + path,
                    headers=self._headers(left_s),
                    json=body,
                    timeout=(min(connect_s, left_s), min(read_s, left_s)),
                )
        raise requests.Timeout("nothing is left of the time")

    def _headers(self, left_s: float) -> dict[str, str]:
        token = service_tokens.mint(self._secret, issuer="order_service", audience="product_service")
        headers = {"Authorization": f"Bearer {token}", deadlines.HEADER: deadlines.render(left_s)}
        if request_id := current_request_id():
            headers["X-Request-ID"] = request_id
        return headers


def _error(answer: requests.Response) -> ProductError:
    try:
        problem = _Problem.model_validate_json(answer.content)
    except ValidationError:
        return _unavailable(f"status {answer.status_code}")
    faults = [FieldError(fault.field, fault.message, fault.location) for fault in problem.errors]
    match problem.code:
        case "OUT_OF_STOCK":
            return OutOfStock(problem.detail, faults)
        case "UNKNOWN_PRODUCT":
            return UnknownProduct(problem.detail, faults)
        case "RESERVATION_EXPIRED" | "RESERVATION_NOT_FOUND":
            return ReservationGone(problem.detail)
        case "RESERVATION_CONFLICT":
            return ReservationConflict(problem.detail)
        case code:
            return _unavailable(f"status {answer.status_code} {code}")


def _unavailable(reason: str) -> ProductsUnavailable:
    log.warning("product_service_unavailable", reason=reason)
    return ProductsUnavailable(reason)


def _invalidation(answer: requests.Response) -> str:
    return answer.headers.get("Cache-Group-Invalidation", "")


class _Line(BaseModel):
    product_id: int
    name: str
    unit_price: Price


class _Reservation(BaseModel):
    lines: list[_Line]


class _Fault(BaseModel):
    field: str
    message: str
    location: str = Field("body", alias="in")


class _Problem(BaseModel):
    code: str
    detail: str
    errors: list[_Fault] = []
