"""Which header fields pass the gateway in each direction."""

from __future__ import annotations

import pytest
import time_machine

from gateway.callers import Forwarding
from gateway.headers import (
    Fields,
    connection_options,
    incoming_answer_headers,
    interim_fields,
    outgoing_headers,
    passed_answer_fields,
    passed_request_fields,
    without_authority,
)

INSTANCE = "http://10.0.0.1:50"
DIRECT = Forwarding("192.0.2.1", "http", "h:5001", ())

HOP_BY_HOP = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
]
NEVER_BELIEVED = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-real-ip",
    "x-request-id",
    "via",
    "x-user-id",
    "x-user-name",
    "x-user-roles",
    "x-user-email",
    "x-user-anything-else",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
]


def sent(incoming: dict[str, str], forwarding: Forwarding = DIRECT, **identity: str) -> dict[str, list[str]]:
    """What goes to the service, by lower-case name."""
    fields = [(f"X-User-{name.title()}", value) for name, value in identity.items()]
    return grouped(outgoing_headers(incoming, forwarding, fields, "req-1"))


def returned(*received: tuple[str, str]) -> dict[str, list[str]]:
    """What the caller gets, by lower-case name."""
    return grouped(incoming_answer_headers(received, INSTANCE))


def grouped(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_field_passes_in_neither_direction(name: str) -> None:
    assert name not in sent({name: "x", "accept": "y"})
    assert name not in returned((name.title(), "x"), ("Accept", "y"))


@pytest.mark.parametrize("name", ["host", "content-length", "expect"])
def test_field_that_belongs_to_our_own_connection_is_not_sent_on(name: str) -> None:
    assert name not in sent({name: "x"})


@pytest.mark.parametrize("named", ["x-secret", "X-Secret", "close, x-secret", " X-SECRET ,close", ",,x-secret"])
def test_field_that_connection_names_passes_in_neither_direction(named: str) -> None:
    outgoing = sent({"connection": named, "x-secret": "1", "x-public": "2"})
    incoming = returned(("Connection", named), ("X-Secret", "1"), ("x-secret", "1"), ("X-Public", "2"))

    assert "x-secret" not in outgoing
    assert "x-secret" not in incoming
    assert outgoing["x-public"] == incoming["x-public"] == ["2"]


def test_repeated_connection_fields_of_an_answer_all_count() -> None:
    assert returned(("Connection", "x-a"), ("connection", "x-b"), ("X-A", "1"), ("X-B", "2")).keys() == {"via"}


def test_connection_cannot_make_us_leave_out_what_we_set() -> None:
    names = [
        "x-request-id",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "forwarded",
        "via",
        "x-user-id",
    ]

    outgoing = sent({"connection": ", ".join(names)}, id="42")

    assert set(names) <= outgoing.keys()
    assert returned(("Connection", "Via"))["via"] == ["1.1 gateway"]


@pytest.mark.parametrize("value", ["", ",", " , "])
def test_connection_without_names_drops_nothing(value: str) -> None:
    assert connection_options(value) == frozenset()


@pytest.mark.parametrize("name", NEVER_BELIEVED)
def test_what_a_caller_says_about_itself_is_not_sent_on(name: str) -> None:
    assert "spoofed" not in sent({name: "spoofed"}).get(name, [])


def test_identity_is_what_the_token_says_and_nothing_beside_it() -> None:
    spoofed = {"x-user-id": "1", "x-user-name": "root", "x-user-roles": "admin", "x-user-email": "root@example.org"}

    outgoing = sent(spoofed, id="42", name="testuser")

    assert (outgoing["x-user-id"], outgoing["x-user-name"]) == (["42"], ["testuser"])
    assert not outgoing.keys() & {"x-user-roles", "x-user-email"}


def test_we_say_who_calls_and_how() -> None:
    outgoing = sent({"x-forwarded-for": "6.6.6.6", "forwarded": "for=6.6.6.6", "via": "1.1 spoofed"})

    assert outgoing == {
        "x-request-id": ["req-1"],
        "x-forwarded-for": ["192.0.2.1"],
        "x-forwarded-proto": ["http"],
        "x-forwarded-host": ["h:5001"],
        "forwarded": ['for=192.0.2.1;proto=http;host="h:5001"'],
        "via": ["1.1 gateway"],
    }


def test_trusted_proxies_stand_behind_the_caller_in_order() -> None:
    forwarding = Forwarding("2001:db8::1", "https", "example.org", ("10.0.0.2", "fd00::1"), via="1.1 edge, 2 cdn")

    outgoing = sent({}, forwarding)

    assert outgoing["x-forwarded-for"] == ["2001:db8::1, 10.0.0.2, fd00::1"]
    assert outgoing["x-forwarded-proto"] == ["https"]
    assert outgoing["forwarded"] == [
        'for="[2001:db8::1]";proto=https;host="example.org", for=10.0.0.2, for="[fd00::1]"'
    ]
    assert outgoing["via"] == ["1.1 edge, 2 cdn, 1.1 gateway"]


def test_other_fields_are_sent_on_as_they_are() -> None:
    incoming = {"accept": "a, b", "authorization": "Bearer x", "cookie": "a=b; c=d", "x-custom": "", "dnt": "1"}

    assert incoming.items() <= {name: values[0] for name, values in sent(incoming).items()}.items()


def test_repeated_fields_of_an_answer_stay_repeated_and_in_order() -> None:
    cookies = [("Set-Cookie", "a=1; Expires=Wed, 01 Jan 2031 00:00:00 GMT"), ("Set-Cookie", "b=2")]
    links = [("Link", "</1>; rel=prev"), ("link", "</3>; rel=next")]

    answered = incoming_answer_headers([*cookies, *links], INSTANCE)

    assert answered == [*cookies, *links, ("Via", "1.1 gateway")]


@pytest.mark.parametrize("name", ["Date", "Server", "date", "SERVER"])
def test_date_and_server_of_an_answer_are_left_to_our_own_server(name: str) -> None:
    assert name.lower() not in returned((name, "x"))


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        ([], "1.1 gateway"),
        ([("Via", "1.0 inner")], "1.0 inner, 1.1 gateway"),
        ([("Via", "1.0 inner"), ("via", "1.1 outer")], "1.0 inner, 1.1 outer, 1.1 gateway"),
    ],
)
def test_via_of_an_answer_grows_by_us(received: list[tuple[str, str]], expected: str) -> None:
    assert returned(*received)["via"] == [expected]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://10.0.0.1:50/products/1", "/products/1"),
        ("http://10.0.0.1:50", "/"),
        ("http://10.0.0.1:50/", "/"),
        ("http://10.0.0.1:50?page=2", "?page=2"),
        ("http://10.0.0.1:50#top", "#top"),
        ("http://10.0.0.1:5004/products/1", "http://10.0.0.1:5004/products/1"),  # another port
        ("http://10.0.0.1:50.example.org/", "http://10.0.0.1:50.example.org/"),
        ("http://10.0.0.1:50@example.org/", "http://10.0.0.1:50@example.org/"),
        ("https://10.0.0.1:50/", "https://10.0.0.1:50/"),
        ("https://example.org/?next=http://10.0.0.1:50/", "https://example.org/?next=http://10.0.0.1:50/"),
        ("/products/1", "/products/1"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("name", ["Location", "location", "Content-Location"])
def test_location_loses_the_address_of_the_instance_and_of_nobody_else(name: str, location: str, expected: str) -> None:
    assert incoming_answer_headers([(name, location)], INSTANCE)[0] == (name, expected)


def test_location_without_its_authority_does_not_become_another_authority() -> None:
    # "//example.org" alone would lead away; RFC 3986, 3.3 and 4.2
    assert without_authority("http://10.0.0.1:50//example.org/x", INSTANCE) == "/.//example.org/x"


AS_THEY_CAME = [
    ("hOST", "h:1"),
    ("X-Same", "1"),
    ("X_Under", ""),
    ("x-same", "2"),
    ("Content-Length", "4"),
    ("X-Forwarded-For", "203.0.113.9"),
    ("X-User-Id", "1"),
    ("X-Request-ID", "theirs"),
    ("Expect", "100-continue"),
    ("Via", "1.0 before"),
]


def test_verbatim_request_has_its_fields_as_they_came_and_our_via() -> None:
    assert passed_request_fields(AS_THEY_CAME, "1.0", "h:1") == [*AS_THEY_CAME, ("Via", "1.0 gateway")]


@pytest.mark.parametrize(("host", "expected"), [("other", [("hOST", "other")]), (None, [])])
def test_host_of_a_verbatim_request_is_what_the_service_is_to_be_told(
    host: str | None, expected: list[tuple[str, str]]
) -> None:
    assert passed_request_fields([("hOST", "h:1")], "1.1", host) == [*expected, ("Via", "1.1 gateway")]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, "x-secret", "x-more"])
def test_field_of_one_connection_is_not_passed_verbatim_either(name: str) -> None:
    pairs = [("Connection", "close, X-Secret"), (name.upper(), "x"), ("connection", "x-MORE"), ("X-Public", "y")]

    assert passed_request_fields(pairs, "1.1", None) == [("X-Public", "y"), ("Via", "1.1 gateway")]
    assert ("X-Public", "y") in passed_answer_fields(pairs, "1.1")
    assert name not in grouped(passed_answer_fields(pairs, "1.1"))
    assert interim_fields(pairs) == [("X-Public", "y")]


def test_verbatim_answer_has_its_fields_as_they_came_and_our_via() -> None:
    pairs = [("server", "x"), ("DATE", "then"), ("Set-Cookie", "a"), ("X-A", ""), ("set-cookie", "b"), ("Via", "1.0 x")]

    assert passed_answer_fields(pairs, "1.0") == [*pairs, ("Via", "1.0 gateway")]


def test_verbatim_answer_without_a_date_gets_ours() -> None:
    with time_machine.travel(784_887_151, tick=False):
        passed = passed_answer_fields([("X-A", "1")], "1.1")

    assert passed == [("X-A", "1"), ("Date", "Tue, 15 Nov 1994 08:12:31 GMT"), ("Via", "1.1 gateway")]


def test_interim_answer_has_no_length() -> None:
    assert interim_fields([("Content-Length", "5"), ("Link", "</a>"), ("link", "</b>")]) == [
        ("Link", "</a>"),
        ("link", "</b>"),
    ]


def test_fields_know_how_they_stood_on_the_wire() -> None:
    head = b"hOST: h\r\nX-A:1\r\nX_B: \t two: 2 \t\r\nx-a:\r\nX-C: \xe9"

    fields = Fields({"host": "h", "x-a": "1,"}, head)

    assert fields["x-a"] == "1,"
    assert fields.pairs == [("hOST", "h"), ("X-A", "1"), ("X_B", "two: 2"), ("x-a", ""), ("X-C", "\xe9")]


def test_fields_without_their_section_are_told_by_name() -> None:
    assert Fields({"x-request-id": "1", "host": "h"}).pairs == [("X-Request-Id", "1"), ("Host", "h")]


def test_version_by_which_a_request_came_is_told_in_via() -> None:
    assert sent({}, Forwarding("192.0.2.1", "http", "h", (), protocol="1.0"))["via"] == ["1.0 gateway"]
