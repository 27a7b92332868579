"""What gunicorn's parser refuses, as problems."""

# the stubs are older than gunicorn
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import inspect
import ssl

import pytest
from gunicorn.http import errors

from common.incoming import HeadTooSlow
from common.refusals import parser_problem

BAD_REQUEST = (400, "MALFORMED_REQUEST")
OURS = (500, "INTERNAL_ERROR")
TABLE: list[tuple[BaseException, tuple[int, str]]] = [
    (errors.LimitRequestLine(9000, 8190), (414, "URI_TOO_LONG")),
    (errors.LimitRequestHeaders("too many"), (431, "HEADERS_TOO_LARGE")),
    (errors.ExpectationFailed("200-maybe"), (417, "EXPECTATION_FAILED")),
    (HeadTooSlow("secret"), (408, "REQUEST_TIMEOUT")),
    (errors.UnsupportedTransferCoding("gzip"), (501, "NOT_IMPLEMENTED")),
    (errors.InvalidRequestMethod("get"), BAD_REQUEST),
    (errors.InvalidRequestLine("secret"), BAD_REQUEST),
    (errors.InvalidHTTPVersion("HTTP/3"), BAD_REQUEST),
    (errors.InvalidHeader("secret"), BAD_REQUEST),
    (errors.InvalidHeaderName("secret"), BAD_REQUEST),
    (errors.ObsoleteFolding("secret"), BAD_REQUEST),
    (errors.InvalidChunkSize(b"secret"), BAD_REQUEST),
    (errors.ChunkMissingTerminator(b"secret"), BAD_REQUEST),
    (errors.InvalidChunkExtension("secret"), BAD_REQUEST),
    (errors.InvalidProxyLine("secret"), BAD_REQUEST),
    (errors.InvalidProxyHeader("secret"), BAD_REQUEST),
    (errors.ForbiddenProxyRequest("secret"), BAD_REQUEST),
    (errors.InvalidSchemeHeaders(), BAD_REQUEST),
    (errors.InvalidH2CPreface(b"secret"), BAD_REQUEST),
    (errors.ParseException("secret"), BAD_REQUEST),
    # the caller has no part in these
    (errors.InvalidResponseHeader("secret"), OURS),
    (errors.InvalidResponseHeaderName("secret"), OURS),
    (errors.ConfigurationProblem("secret"), OURS),
    (errors.NoMoreData(b"secret"), OURS),
    (ValueError("secret"), OURS),
    (ssl.SSLError("secret"), OURS),
]


def test_the_table_has_every_error_of_the_parser() -> None:
    known = {kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__}

    assert known <= {type(error) for error, _ in TABLE}


@pytest.mark.parametrize(("error", "expected"), TABLE, ids=lambda value: type(value).__name__)
def test_each_error_is_told_as_a_problem_that_does_not_repeat_the_request(
    error: BaseException, expected: tuple[int, str]
) -> None:
    problem = parser_problem(error)

    assert (problem.status, problem.code) == expected
    assert "secret" not in problem.detail
