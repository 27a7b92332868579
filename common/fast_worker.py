"""The worker's fast way through a connection, for plain requests; the rest goes the way of `worker`, bytes unread.

1. Wait until something can be read, through the hub: no connection gets two turns in a row (`source`).
2. Receive what is there and read the head that it begins with, if it is whole and plain (`plain_heads`).
3. Not so: what was received is put back for gunicorn's parser, which reads on from there, and serves or refuses it.
   What it leaves is where the next request begins, which may go the fast way again.
4. A body that has come with its head is there already; of one that has not, `incoming` reads the rest.
5. The application answers, through the same writer as on the other way (`answers`), most often in one `send`.

One greenlet per worker looks once a second who has waited for too long; no timer is made for a request.
"""

from __future__ import annotations

import socket
import ssl
import time
from io import BytesIO
from typing import Any

import gevent
import structlog
from gunicorn.http.body import LengthReader
from gunicorn.http.wsgi import base_environ

from common.answers import Response
from common.conditions import why_not
from common.incoming import Incoming
from common.messages import TELL, IncomingBody
from common.plain_heads import HeadReader, PlainHead
from common.source import A_TURN_S, Source, source_of
from common.worker import Environ, ProblemWorker

log = structlog.get_logger("edge")

SWEEP_S = 1.0


class FastWorker(ProblemWorker):
    """`worker_class = "common.fast_worker.FastWorker"`."""

    def init_process(self) -> None:
        reason = why_not(self.cfg)
        if reason:
            log.warning("fast_worker_not_used", reason=reason)
        self._is_fast = not reason
        super().init_process()

    def run(self) -> None:
        gevent.spawn(self._sweep)
        super().run()

    def _sweep(self) -> None:
        while True:
            gevent.sleep(SWEEP_S)
            self._end_waiting_until(time.monotonic())

    def _exchange(self, listener: Any, client: socket.socket, addr: Any) -> None:
        if not self._is_fast or not isinstance(addr, tuple):
            return super()._exchange(listener, client, addr)
        name = listener.getsockname()
        incoming = Incoming(client, self.pace, self.cfg.keepalive)
        reader = HeadReader(self.cfg, self._template(name, client, addr))
        client.settimeout(self.pace.pause_s)
        source = source_of(client)
        data = b""
        try:
            while True:
                if data:
                    gevent.sleep(A_TURN_S)
                else:
                    data = self._received(listener, source)
                head = reader.read(data)
                if head is None:
                    incoming.unread(data)
                    request = self._next_request(listener, incoming, addr)
                    self.handle_request(name, request, client, addr)
                    data = incoming.take_ahead()
                else:
                    data = self._answer_plain(head, data, incoming, client)
        finally:
            source.close()

    def _template(self, name: Any, client: socket.socket, addr: Any) -> Environ:
        """What the WSGI environment of each request on a connection has in common."""
        return {
            **base_environ(self.cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "https" if isinstance(client, ssl.SSLSocket) else "http",
            "gunicorn.socket": client,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SERVER_NAME": name[0],
            "SERVER_PORT": str(name[1]),
            "SCRIPT_NAME": "",
            "REMOTE_ADDR": addr[0],
            "REMOTE_PORT": str(addr[1]),
        }

    def _received(self, listener: Any, source: Source) -> bytes:
        """What has come. Raises `StopIteration` at the end; who waits for too long is ended by `_sweep`."""
        greenlet = gevent.getcurrent()
        self._waiting[greenlet] = listener, time.monotonic() + self.cfg.keepalive
        try:
            data = source.next()
        finally:
            del self._waiting[greenlet]
        if not data:
            raise StopIteration
        return data

    def _answer_plain(self, head: PlainHead, data: bytes, incoming: Incoming, client: socket.socket) -> bytes:
        """Answer the request that `data` begins with. What is behind it. Raises `StopIteration` at the end."""
        environ, fields, start = head
        incoming.requests += 1
        end = start + fields.length
        body = None
        if len(data) >= end:
            environ["wsgi.input"] = BytesIO(data[start:end])
        else:
            incoming.unread(data[start:])
            incoming.await_body()
            environ["wsgi.input"] = body = IncomingBody(LengthReader(incoming, fields.length), is_awaited=False)
        is_head = environ["REQUEST_METHOD"] == "HEAD"
        response = Response(client, is_head=is_head, must_close=fields.closes or incoming.is_last)
        environ[TELL] = response.tell
        environ["wsgi.early_hints"] = response.early_hints
        is_last = self._answer(environ, response, client)
        if body is not None:
            self._finish(is_last, body, client)
            return incoming.take_ahead()
        if is_last:
            raise StopIteration
        return data[end:]
