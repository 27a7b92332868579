"""An instance as a process of its own, that can be killed, stopped and told to misbehave while it is under load.

`python -m tests.support.fragile PORT MODE_FILE LOG_FILE` answers every path. What it does is the word in MODE_FILE,
read anew for each request: `ok`, `slow`, `reset`, `cut`, `garbage` or `error`. Each arriving request is one line in
LOG_FILE, `METHOD path`, written before anything goes wrong.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.ports import free_port
from tests.support.processes import Process

SLOW_S = 5.0


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mode_file: Path
    log: int

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the gateway's log is the one to read."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/health":
            os.write(self.log, f"{self.command} {self.path}\n".encode())  # one write: whole lines from all threads
        match self.mode_file.read_text():
            case "slow":
                time.sleep(SLOW_S)
                self._send(200, b"late")
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
            case "cut":
                self._send(200, b"half", length=1000)
                self.close_connection = True
            case "garbage":
                self.wfile.write(b"\x00\x01 this is not HTTP\r\n\r\n")
                self.close_connection = True
            case "error":
                self._send(503, b"no")
            case _:
                self._send(200, b"good")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what it is for."""


class FragileInstance:
    """One such process, on one port for all its lives."""

    def __init__(self, name: str, directory: Path) -> None:
        self.port = free_port()
        self._mode, self._log = directory / f"{name}.mode", directory / f"{name}.requests"
        self.behave("ok")
        self._log.touch()
        argv = [sys.executable, "-m", "tests.support.fragile", str(self.port), str(self._mode), str(self._log)]
        self.process = Process(name, argv, directory=directory, env={}, ready_url=f"{self.url}/health")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def arrived(self) -> list[str]:
        """`METHOD path` of all requests of all its lives."""
        return self._log.read_text().splitlines()

    def behave(self, mode: str) -> None:
        draft = self._mode.with_suffix(".draft")
        draft.write_text(mode)
        draft.replace(self._mode)  # at once: a request must not read half a word


if __name__ == "__main__":
    _Answering.mode_file = Path(sys.argv[2])
    _Answering.log = os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    _Server(("127.0.0.1", int(sys.argv[1])), _Answering).serve_forever()
