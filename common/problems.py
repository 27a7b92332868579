"""One shape for every refusal and failure: RFC 9457 problem documents, with the four members that clients of the
older systems read (`error`, `message`, `code`, `request_id`).

    Problem
    ├── BadRequest 400            ├── PayloadTooLarge 413       ├── InternalError 500
    ├── Unauthorized 401          ├── UnsupportedMediaType 415  ├── NotImplementedProblem 501
    ├── Forbidden 403             ├── UnprocessableContent 422  ├── BadGateway 502
    ├── NotFound 404              ├── TooManyRequests 429       ├── ServiceUnavailable 503
    ├── MethodNotAllowed 405      └── ...                       └── GatewayTimeout 504
    └── Conflict 409

Rules raise errors of their own; routes turn them into one of these. The status stands here and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import ClassVar

import orjson
import structlog
from flask import Flask, Response, current_app
from werkzeug.exceptions import HTTPException

from common.logs import current_request_id

MEDIA_TYPE = "application/problem+json"
KEPT_HEADERS = frozenset({"allow", "retry-after", "www-authenticate"})
"""Header fields that a framework's own error may bring along."""
log = structlog.get_logger("problems")

Note = Callable[["Problem", BaseException], None]
"""Is told of each problem that an app answers with, and of the error that it stands for, which may be itself."""
_NOTE = "problems.note"


@dataclass(frozen=True, slots=True)
class FieldError:
    """One fault of the caller's input. `field` is a dotted path, `location` is body, query, path or header."""

    field: str
    message: str
    location: str = "body"


class Problem(Exception):
    """What the caller is told. `code` is stable and documented; `detail` is for people and names the way out."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "INTERNAL_ERROR"

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        errors: Sequence[FieldError] = (),
        headers: Sequence[tuple[str, str]] = (),
        **members: object,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.default_code
        self.errors = tuple(errors)
        self.headers = tuple(headers)
        self.members = members

    @property
    def title(self) -> str:
        return reason(self.status)

    def document(self, request_id: str, source: str) -> dict[str, object]:
        """The members of the problem document. `source` is `gateway` or the service's name."""
        document: dict[str, object] = {
            "type": f"/problems/{self.code.lower().replace('_', '-')}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.title,
            "message": self.detail,
            "code": self.code,
            "request_id": request_id,
            "source": source,
        }
        if self.errors:
            document["errors"] = [
                {"field": error.field, "message": error.message, "in": error.location} for error in self.errors
            ]
        document.update(self.members)
        return document

    def body(self, request_id: str, source: str) -> bytes:
        return orjson.dumps(self.document(request_id, source), option=orjson.OPT_APPEND_NEWLINE)


class BadRequest(Problem):
    status, default_code = 400, "BAD_REQUEST"


class Unauthorized(Problem):
    """401; `error` becomes the `error` parameter of `WWW-Authenticate` (RFC 6750, 3)."""

    status, default_code = 401, "UNAUTHORIZED"

    def __init__(self, detail: str, *, code: str = "", error: str = "") -> None:
        challenge = f'Bearer error="{error}", error_description="{detail}"' if error else "Bearer"
        super().__init__(detail, code=code, headers=(("WWW-Authenticate", challenge),))


class Forbidden(Problem):
    status, default_code = 403, "FORBIDDEN"


class NotFound(Problem):
    status, default_code = 404, "NOT_FOUND"


class MethodNotAllowed(Problem):
    status, default_code = 405, "METHOD_NOT_ALLOWED"


class RequestTimeout(Problem):
    status, default_code = 408, "REQUEST_TIMEOUT"


class Conflict(Problem):
    status, default_code = 409, "CONFLICT"


class PayloadTooLarge(Problem):
    status, default_code = 413, "PAYLOAD_TOO_LARGE"


class UriTooLong(Problem):
    status, default_code = 414, "URI_TOO_LONG"


class UnsupportedMediaType(Problem):
    status, default_code = 415, "UNSUPPORTED_MEDIA_TYPE"


class ExpectationFailed(Problem):
    status, default_code = 417, "EXPECTATION_FAILED"


class UnprocessableContent(Problem):
    status, default_code = 422, "VALIDATION_ERROR"


class TooManyRequests(Problem):
    status, default_code = 429, "RATE_LIMIT_EXCEEDED"


class HeadersTooLarge(Problem):
    status, default_code = 431, "HEADERS_TOO_LARGE"


class InternalError(Problem):
    status, default_code = 500, "INTERNAL_ERROR"


class NotImplementedProblem(Problem):
    status, default_code = 501, "NOT_IMPLEMENTED"


class BadGateway(Problem):
    status, default_code = 502, "BAD_GATEWAY"


class ServiceUnavailable(Problem):
    """503, always with `Retry-After` (RFC 9110, 10.2.3)."""

    status, default_code = 503, "SERVICE_UNAVAILABLE"

    def __init__(self, detail: str, *, code: str = "", retry_after_s: int = 1) -> None:
        super().__init__(detail, code=code, headers=(("Retry-After", str(max(1, retry_after_s))),))


class GatewayTimeout(Problem):
    status, default_code = 504, "GATEWAY_TIMEOUT"


_BY_STATUS: Mapping[int, type[Problem]] = {
    kind.status: kind
    for kind in (
        BadRequest, Forbidden, NotFound, MethodNotAllowed, RequestTimeout, Conflict, PayloadTooLarge, UriTooLong,
        UnsupportedMediaType, ExpectationFailed, UnprocessableContent, TooManyRequests, HeadersTooLarge,
        InternalError, NotImplementedProblem, BadGateway, GatewayTimeout,
    )
}  # fmt: skip


_PHRASES: Mapping[int, str] = {
    **{known.value: known.phrase for known in HTTPStatus},
    413: "Content Too Large",
    422: "Unprocessable Content",
    414: "URI Too Long",
}

_PLAIN_WORDS: Mapping[int, str] = {
    400: "The request could not be understood; is its JSON well-formed?",
    404: "There is nothing at this address.",
    405: "This method is not allowed here; the Allow header lists those that are.",
    413: "The body is larger than this service accepts.",
    415: "The body's media type is not supported here; send application/json.",
}


_OF_CLASS = {2: "OK", 3: "Redirection", 4: "Bad Request", 5: "Internal Server Error"}


def reason(status: int) -> str:
    """The reason phrase of a status code, as RFC 9110 spells it; that of its class for an unknown one."""
    return _PHRASES.get(status) or _OF_CLASS.get(status // 100, "Unknown")


@lru_cache(maxsize=1000)
def status_line(status: int) -> str:
    """`404 Not Found`, as the RFC spells it and werkzeug does not."""
    return f"{status} {reason(status)}"


def for_status(
    status: int, detail: str, *, errors: Sequence[FieldError] = (), headers: Iterable[tuple[str, str]] = ()
) -> Problem:
    """The problem for a bare status code, as frameworks raise them; an unknown one keeps its class (4xx or 5xx)."""
    if detail == reason(status) or not detail:
        detail = _PLAIN_WORDS.get(status, reason(status))
    if status == 401:
        return Unauthorized(detail)
    if status == 503:
        waits = [int(value) for name, value in headers if name.lower() == "retry-after" and value.isdecimal()]
        return ServiceUnavailable(detail, retry_after_s=max(waits, default=1))
    kind = _BY_STATUS.get(status) or (BadRequest if 400 <= status < 500 else InternalError)
    return kind(detail, errors=errors, headers=tuple(headers))


def unexpected() -> Problem:
    """For an error that nobody foresaw."""
    return InternalError("Something went wrong on our side; the request id finds it in our logs.")


def fields(problem: Problem) -> list[tuple[str, str]]:
    """The header fields of a problem's answer. A refusal is about one request at one time: no cache may keep it."""
    return [("Content-Type", MEDIA_TYPE), ("Cache-Control", "no-store"), *problem.headers]


def response(problem: Problem, source: str) -> Response:
    note: Note | None = current_app.extensions.get(_NOTE)
    if note is not None:
        note(problem, sys.exception() or problem)
    body = problem.body(current_request_id(), source)
    return Response(body, status=status_line(problem.status), headers=fields(problem))


def init_app(app: Flask, source: str, note: Note | None = None) -> None:
    """Every error that leaves `app` becomes a problem document; what nobody foresaw is logged and told as 500."""
    app.extensions[_NOTE] = note

    def on_problem(problem: Problem) -> Response:
        return response(problem, source)

    def on_http_exception(error: HTTPException) -> Response:
        status = error.code or 500
        kept = [(name, value) for name, value in error.get_headers() if name.lower() in KEPT_HEADERS]
        return response(for_status(status, "", headers=kept), source)

    def on_anything(error: Exception) -> Response:
        log.error("unexpected_error", exc_info=error)
        return response(unexpected(), source)

    app.register_error_handler(Problem, on_problem)
    app.register_error_handler(HTTPException, on_http_exception)
    app.register_error_handler(Exception, on_anything)
