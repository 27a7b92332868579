"""What a caller is told whose request no application has seen: a problem for each error of the parser, as bytes."""

from __future__ import annotations

from gunicorn.http import errors

from common import problems, security_headers
from common.incoming import HeadTooSlow

# subclasses of ParseException in which the caller has no part
_OURS = (
    errors.ConfigurationProblem,
    errors.InvalidResponseHeader,  # pyright: ignore[reportAttributeAccessIssue] - the stubs are older than gunicorn
    errors.InvalidResponseHeaderName,  # pyright: ignore[reportAttributeAccessIssue] - as above
)


def parser_problem(error: BaseException) -> problems.Problem:
    """What the caller is told about a request that gunicorn's parser refused. The offending bytes are not repeated."""
    if isinstance(error, HeadTooSlow):
        return problems.RequestTimeout("The request's head did not come in time.")
    if isinstance(error, errors.LimitRequestLine):
        return problems.UriTooLong("The request line is longer than this server accepts.")
    if isinstance(error, errors.LimitRequestHeaders):
        return problems.HeadersTooLarge("The request has more or longer header fields than this server accepts.")
    if isinstance(error, errors.ExpectationFailed):
        return problems.ExpectationFailed("The only expectation that can be met is 100-continue.")
    if isinstance(error, errors.UnsupportedTransferCoding):
        return problems.NotImplementedProblem("The only transfer coding that is understood is chunked.")
    if isinstance(error, errors.InvalidRequestMethod):
        return problems.BadRequest("The request method is malformed.", code="MALFORMED_REQUEST")
    if isinstance(error, errors.ParseException) and not isinstance(error, _OURS):
        return problems.BadRequest("The request is not well-formed HTTP/1.1.", code="MALFORMED_REQUEST")
    return problems.InternalError("Something went wrong on our side; the request id finds it in our logs.")


def written(problem: problems.Problem, request_id: str, source: str) -> bytes:
    """The whole answer; the connection ends with it."""
    body = problem.body(request_id, source)
    own = [("Content-Length", str(len(body))), ("X-Request-ID", request_id), ("Connection", "close")]
    fields = [*problems.fields(problem), *security_headers.FIELDS, *own]
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
