"""A request as it goes out to an instance: its head in bytes, framed in one way only."""

from __future__ import annotations

import requests

from gateway.backend.parsing import Fields
from gateway.body import Body

_WITH_LENGTH = frozenset({"POST", "PUT", "PATCH"})  # which mean something by a body of no length


class Outgoing(requests.PreparedRequest):
    """A request that nothing re-encodes: `requests` would re-quote the URL and fold repeated fields.

    The body is framed here, and in one way only: by Content-Length where the length is known, else in chunks of ours.
    """

    def __init__(self, method: str, base_url: str, target: str, fields: Fields, body: Body, *, host: str = "") -> None:
        """`host` is what the instance is called where `fields` say nothing; "" what the URL says. Raises `ValueError`
        for what would not arrive as it is here."""
        self.method, self.content = method, body
        self.base_url = self.url = base_url  # only tells where to connect
        self._host = host
        self._start = f"{method} {target or '/'} HTTP/1.1"
        if not method or self._start.count(" ") != 2 or not self._start.isascii() or not self._start.isprintable():
            raise ValueError("no request line")
        names = "\n".join(["", *[name for name, _ in fields], ""]).lower()
        if body.length != 0 or "\ncontent-length\n" in names or method in _WITH_LENGTH:
            fields = _framed(method, fields, body)
        self._fields = _written(fields)
        self._has_host = "\nhost\n" in names
        self.expects = "\nexpect\n" in names
        self.is_timed = False
        """Somebody else sees to it that the head of the answer comes in time, once the request is out."""

    def head(self, authority: str) -> bytes:
        """As it goes out, with a Host that names the instance where there is none."""
        host = "" if self._has_host else f"Host: {self._host or authority}\r\n"
        return f"{self._start}\r\n{host}{self._fields}\r\n".encode("latin-1")


def _written(fields: Fields) -> str:
    lines = "".join([f"{name}: {value}\r\n" for name, value in fields])
    if lines.count("\n") != len(fields) or lines.count("\r") != len(fields) or "\0" in lines:
        raise ValueError("a line break or NUL in a field")
    return lines


def _framed(method: str, fields: Fields, body: Body) -> Fields:
    """`fields` with our framing. A Content-Length among them keeps its place, whatever it says."""
    if body.length is None:
        return [*(pair for pair in fields if pair[0].lower() != "content-length"), ("Transfer-Encoding", "chunked")]
    length = str(body.length)
    if any(name.lower() == "content-length" for name, _ in fields):
        return [(name, length if name.lower() == "content-length" else value) for name, value in fields]
    is_expected = method in _WITH_LENGTH and not body.is_verbatim
    return [*fields, ("Content-Length", length)] if body.length or is_expected else fields
