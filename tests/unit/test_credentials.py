"""What a request shows of who it is."""

from __future__ import annotations

import pytest

from common.keys import InvalidToken
from common.problems import BadRequest
from gateway.credentials import Credential, credential_of

COOKIE = "session"


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({}, None),
        ({"authorization": "Bearer abc"}, Credential("token", "abc")),
        ({"authorization": "ApiKey abc"}, Credential("key", "abc")),
        ({"authorization": "apikey  abc "}, Credential("key", "abc")),
        ({"x-api-key": " abc "}, Credential("key", "abc")),
        ({"cookie": "a=b; session=abc"}, Credential("cookie", "abc")),
        ({"cookie": "a=b"}, None),
        ({"cookie": "session="}, None),
        ({"cookie": "session=abc", "authorization": "Bearer x"}, Credential("token", "x")),
        ({"cookie": "session=abc", "x-api-key": "k"}, Credential("key", "k")),
    ],
)
def test_a_request_shows_one_credential(headers: dict[str, str], shown: Credential | None) -> None:
    assert credential_of(headers, COOKIE) == shown


def test_a_cookie_counts_only_where_cookies_are_used() -> None:
    assert credential_of({"cookie": "session=abc"}) is None


def test_two_credentials_are_refused() -> None:
    with pytest.raises(BadRequest) as refused:
        credential_of({"authorization": "Bearer abc", "x-api-key": "abc"})

    assert refused.value.code == "AMBIGUOUS_CREDENTIALS"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": ""},
        {"x-api-key": "a, b"},
        {"x-api-key": "a b"},
        {"authorization": "ApiKey"},
        {"authorization": "ApiKey a,b"},
        {"authorization": "Basic abc"},
        {"authorization": "Bearer a, Bearer b"},
    ],
)
def test_a_malformed_credential_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(InvalidToken):
        credential_of(headers, COOKIE)
