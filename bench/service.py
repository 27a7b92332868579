"""What stands behind all that is measured: `python -m bench.service PORT FOLDER`.

Two roles. As user_service, it publishes the bench's keys and tells, by a long poll, that nothing was revoked. And where
there is no nginx, it is the service too, with the same answers; then it is slower than most of what is measured, so
requests per second say more about it than about them, and CPU per request is still theirs.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs

JWKS_PATH = "/.well-known/jwks.json"
REVOCATIONS_PATH = "/internal/revocations"
SERVED_PATH = "/served"
SMALL = json.dumps({"id": 1, "name": "item", "text": "x" * 1140}).encode()
LARGE = json.dumps({"id": 1, "name": "large item", "text": "x" * 102_360}).encode()


def write_files(folder: Path, jwks: Mapping[str, object]) -> None:
    """What the service answers, for whoever plays it."""
    (folder / "small.json").write_bytes(SMALL)
    (folder / "large.json").write_bytes(LARGE)
    (folder / "jwks.json").write_text(json.dumps(jwks))


class Answering(asyncio.Protocol):
    """One connection. Takes requests with a Content-Length or without a body, one after the other."""

    served = 0

    def __init__(self, folder: Path) -> None:
        self._jwks = (folder / "jwks.json").read_bytes()
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._waiting:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            length = next(
                (int(line[15:]) for line in head.split("\r\n") if line[:15].lower() == "content-length:"),
                0,
            )
            if len(self._buffer) < end + 4 + length:
                return
            self._buffer = self._buffer[end + 4 + length :]
            self._answer(head.split(" ", 2)[1])

    def _answer(self, target: str) -> None:
        path, _, query = target.partition("?")
        if path == REVOCATIONS_PATH:
            asked = parse_qs(query)
            nothing_new = json.dumps({"entries": [], "last": int(asked["after"][0]), "complete": True}).encode()
            self._waiting = asyncio.get_running_loop().call_later(
                float(asked["wait"][0]), self._send, with_length(nothing_new)
            )
        elif path == JWKS_PATH:
            self._send(with_length(self._jwks))
        elif path == SERVED_PATH:
            self._send(with_length(str(Answering.served).encode()))
        else:
            Answering.served += 1
            self._send(item(path))

    def _send(self, answer: bytes) -> None:
        if self._transport:
            self._transport.write(answer)


def item(path: str) -> bytes:
    """The answer of the service itself."""
    if path == "/items/large":
        return with_length(LARGE)
    if path == "/items/chunked":
        return head(b"Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMALL), SMALL)
    return with_length(SMALL, b"Cache-Control: public, max-age=3600" if path.startswith("/kept/") else b"")


def with_length(body: bytes, *fields: bytes) -> bytes:
    return head(b"Content-Length: %d" % len(body), *fields) + body


def head(*fields: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 200 OK", b"Content-Type: application/json", *filter(None, fields), b"", b""))


async def serve(port: int, folder: Path) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: Answering(folder), "127.0.0.1", port, reuse_port=True, backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2])))
