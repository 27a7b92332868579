"""Which header fields pass the gateway, and which it sets itself: pure rules, the RFC's sections beside them.

Request fields arrive as a mapping of lower-case names (WSGI has joined repeated ones); what is sent on, and what comes
back, are lists of pairs, so that repeated fields stay repeated. For a service that is `verbatim` nothing is set, and
nothing is dropped but what RFC 9110 wants dropped: `Fields.pairs` has the request's fields as they stood on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate

from common.remembering import Known, remembered
from gateway.callers import PSEUDONYM, Forwarding

# RFC 9110, 7.6.1, and the older fields that belong to one connection only
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip

# whatever a caller says about itself in these, and in any X-User-*, is dropped: we say it, or nobody does
SET_BY_US = frozenset(
    {
        "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-port",
        "x-forwarded-prefix", "x-real-ip", "x-request-id", "via", "x-original-url", "x-rewrite-url",
        "x-http-method-override",
    }
)  # fmt: skip

# framing is ours (the body's length is known), the service has its own Host, and 100-continue was already answered
_REPLACED = frozenset({"host", "content-length", "expect"})
_CREDENTIALS = frozenset({"x-api-key", "authorization"})  # for us: the service gets a token that we have verified
_NEVER_SENT = HOP_BY_HOP | SET_BY_US | _REPLACED | _CREDENTIALS

# gunicorn writes Date and Server itself
_NEVER_RETURNED = HOP_BY_HOP | {"date", "server"}

_PERSISTENCE = frozenset({"keep-alive", "close"})  # options that name no field that is ever passed on

OUR_COOKIES = frozenset({"__Host-access", "__Secure-refresh", "__Host-csrf", "dev-access", "dev-refresh", "dev-csrf"})
"""What a browser keeps for the gateway alone, see `cookies`."""


class Fields(dict[str, str]):
    """A request's fields by lower-case name, repeated ones joined. `head` is the section that they were read from."""

    def __init__(self, joined: Mapping[str, str], head: bytes | None = None) -> None:
        super().__init__(joined)
        self._head = head

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """As they came: order, case, repeats. The server has refused what is no field."""
        if self._head is None:
            return [(name.title(), value) for name, value in self.items()]
        fields = (line.partition(":") for line in self._head.decode("latin-1").split("\r\n"))
        return [(name, value.strip(" \t")) for name, colon, value in fields if colon]


@remembered(256)
def connection_options(value: str) -> frozenset[str]:
    """Fields that `Connection` names belong to this connection only (RFC 9110, 7.6.1)."""
    return frozenset(token.strip().lower() for token in value.split(",")) - {""}


def outgoing_headers(
    incoming: Mapping[str, str], forwarding: Forwarding, identity: Sequence[tuple[str, str]], request_id: str
) -> list[tuple[str, str]]:
    """The fields to send to the service: hop-by-hop ones and those that only we may set dropped, then ours added.

    `identity` says who calls, if that is known, and takes the place of what the caller showed.
    """
    sent = [(written, value) for name, value in incoming.items() if (written := _SENT[name])]
    if not identity and (shown := incoming.get("authorization")) and not shown.lstrip().lower().startswith("apikey"):
        sent.append(("Authorization", shown))
    if (named := incoming.get("connection")) is not None and (dropped := connection_options(named) - _PERSISTENCE):
        sent = [pair for pair in sent if pair[0].lower() not in dropped]
    if "cookie" in incoming:
        sent = _without_our_cookies(sent)
    sent.append(("X-Request-ID", request_id))
    sent += forwarding.fields
    sent += identity
    return sent


def _written(name: str) -> str:
    return "" if name in _NEVER_SENT or name.startswith("x-user-") else name.title()


_SENT = Known(_written)
"""How the names of a request's fields are written for the service, "" for those that it is not sent."""


def passed_request_fields(pairs: Iterable[tuple[str, str]], protocol: str, host: str | None) -> list[tuple[str, str]]:
    """The fields that a `verbatim` service gets: all but those of the caller's connection, and our `Via` behind them.

    `host` takes the place of the caller's Host; None leaves it to the transport, which names the instance.
    """
    sent = [
        (name, host if name.lower() == "host" and host is not None else value)
        for name, value in _without_our_cookies(_end_to_end(pairs))
        if name.lower() != "host" or host is not None
    ]
    return [*sent, ("Via", f"{protocol} {PSEUDONYM}")]


def passed_answer_fields(pairs: Iterable[tuple[str, str]], protocol: str) -> list[tuple[str, str]]:
    """The fields of a `verbatim` service's answer that the caller gets, in their order: as for the request. A `Date`
    is added where there is none (RFC 9110, 6.6.1)."""
    kept = _end_to_end(pairs)
    if not any(name.lower() == "date" for name, _ in kept):
        kept.append(("Date", formatdate(usegmt=True)))
    return [*kept, ("Via", f"{protocol} {PSEUDONYM}")]


def interim_fields(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of an interim answer that pass; it has no body, so it has no length (RFC 9110, 8.6)."""
    return [(name, value) for name, value in _end_to_end(pairs) if name.lower() != "content-length"]


def without_ours(cookies: str) -> str:
    """A `Cookie` field without those that are for us alone, "" when nothing is left."""
    if not any(name in cookies for name in OUR_COOKIES):
        return cookies
    pairs = (part.strip() for part in cookies.split(";"))
    return "; ".join(pair for pair in pairs if pair.partition("=")[0].strip() not in OUR_COOKIES)


def _without_our_cookies(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    kept = ((name, without_ours(value) if name.lower() == "cookie" else value) for name, value in fields)
    return [(name, value) for name, value in kept if value or name.lower() != "cookie"]


def _end_to_end(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the fields that belong to one connection (RFC 9110, 7.6.1)."""
    given = list(pairs)
    options = connection_options(",".join(value for name, value in given if name.lower() == "connection"))
    return [(name, value) for name, value in given if name.lower() not in HOP_BY_HOP and name.lower() not in options]


def incoming_answer_headers(received: Iterable[tuple[str, str]], instance_url: str) -> list[tuple[str, str]]:
    """The fields of a service's answer that the caller gets, repeated ones still repeated, and our `Via`.

    A `Location` that names the instance itself loses scheme and authority: it would lead nowhere, and tell too much.
    """
    kept: list[tuple[str, str]] = []
    options = via = ""
    for pair in received:
        lower = _RETURNED[pair[0]]
        if lower is PASSES:
            kept.append(pair)
        elif lower == "connection":
            options += f"{pair[1]},"
        elif lower == "via":
            via += f"{pair[1]}, "
        elif lower in ("location", "content-location"):
            kept.append((pair[0], without_authority(pair[1], instance_url)))
    if options and (dropped := connection_options(options) - _PERSISTENCE):
        kept = [pair for pair in kept if pair[0].lower() not in dropped]
    kept.append(("Via", f"{via}1.1 {PSEUDONYM}"))
    return kept


PASSES = ""


_LOOKED_AT = frozenset({"via", "location", "content-location"})


def _kind_of(name: str) -> str:
    lower = name.lower()
    return lower if lower in _NEVER_RETURNED or lower in _LOOKED_AT else PASSES


_RETURNED = Known(_kind_of)
"""`PASSES` for the name of an answer's field that passes as it is, else the name in small letters."""


def without_authority(location: str, instance_url: str) -> str:
    """`http://10.0.0.7:5004/products/1` as `/products/1` when the instance is at `http://10.0.0.7:5004`."""
    if location == instance_url:
        return "/"
    rest = location.removeprefix(instance_url)
    if rest == location or rest[:1] not in ("/", "?", "#"):
        return location
    return f"/.{rest}" if rest.startswith("//") else rest  # "//x" would be another host (RFC 3986, 4.2)
