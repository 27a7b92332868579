"""What every answer says to browsers, and the answer to what they ask beforehand."""

from __future__ import annotations

from common import security_headers
from common.problems import Forbidden
from common.remembering import Known
from gateway.cors import is_preflight, without_cors
from gateway.exchange import Exchange, HeaderList
from gateway.policies.limited import count_unrouted

HSTS = "Strict-Transport-Security"
_SAID_HERE = frozenset({"x-request-id", "x-content-type-options"})
_SMALL = Known(str.lower)


def completed(headers: HeaderList, request_id: str, exchange: Exchange | None) -> HeaderList:
    """With what is true of all answers but verbatim ones. Those that are ours, which have no Via, say besides that they
    are nothing but documents. They come last, outside of any cache: what one origin is told is not kept for another."""
    names = {_SMALL[name] for name, _ in headers}
    is_ours = "via" not in names
    if not _SAID_HERE.isdisjoint(names):
        headers = [(name, value) for name, value in headers if name.lower() not in _SAID_HERE]
    headers = [*headers, ("X-Request-ID", request_id), security_headers.NOSNIFF]
    if exchange is not None:
        browsers = exchange.runtime.browsers
        if browsers.cors.origins or (browsers.hsts_max_age_s and exchange.forwarding.scheme == "https"):
            headers = _for_pages(exchange, headers)
        headers += exchange.answer_headers
        if exchange.stages:
            headers.append(exchange.stages.field())
    return headers + security_headers.missing(headers) if is_ours else headers


def _for_pages(exchange: Exchange, headers: HeaderList) -> HeaderList:
    browsers = exchange.runtime.browsers
    if browsers.cors.origins and not exchange.is_operations:
        headers = without_cors(headers) + browsers.cors.answer_fields(exchange.headers.get("origin"))
    # of the whole host, so no service's to say
    if browsers.hsts_max_age_s and exchange.forwarding.scheme == "https":
        headers = [(name, value) for name, value in headers if name.lower() != HSTS.lower()]
        headers.append((HSTS, f"max-age={browsers.hsts_max_age_s}"))
    return headers


def answers_preflight(exchange: Exchange) -> bool:
    """Whether a browser asks if a page may send something: then the answer is ours, whatever the service would say, for
    it is asked without a token. Raises `Forbidden` for a page that may not, `TooManyRequests` for an address that asks
    too often."""
    cors = exchange.runtime.browsers.cors
    if not cors.origins or not is_preflight(exchange.method, exchange.headers) or exchange.is_operations:
        return False
    service = exchange.table.router.find_service(exchange)
    if service is not None and service.is_verbatim:
        return False
    count_unrouted(exchange)
    if not cors.admits(exchange.headers["origin"]):
        raise Forbidden("Pages of this origin may not call this API.", code="ORIGIN_REFUSED")
    exchange.answer_headers += cors.preflight_fields()
    return True
