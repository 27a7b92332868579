"""A service that can do only so much at once: whoever comes beyond that waits in it, and it keeps count."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.support.ports import free_port


class Bottleneck:
    """Answers every request after `work_s` of work, of which it does `capacity` at once. Thread-safe.

    `order` has the paths in the order in which they came.
    """

    def __init__(self, *, capacity: int, work_s: float) -> None:
        self.port = free_port()
        self._places, self._work_s = threading.Semaphore(capacity), work_s
        self._changed = threading.Lock()  # protects what follows
        self.order: list[str] = []
        self.inside = self.most_inside = 0
        bottleneck = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                bottleneck.serve(self)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = _Server(("127.0.0.1", self.port), Answering)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Forget what was counted; nobody may be inside."""
        with self._changed:
            self.order.clear()
            self.most_inside = self.inside

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        with self._changed:
            self.order.append(request.path)
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            with self._places:
                time.sleep(self._work_s)
        finally:
            with self._changed:
                self.inside -= 1
        request.send_response(200)
        request.send_header("Content-Length", "4")
        request.end_headers()
        request.wfile.write(b"done")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Callers that have left are none."""
