"""The connections to an instance that nobody uses just now, the last one that came back on top.

So under little load the others grow old and are closed: after `LONGEST_IDLE_S`, for servers close too, and a request
that is on its way just then is lost; and after `LONGEST_LIFE_S` at all, so that whoever stands between us and the
instance can move its load. A connection on which something comes while it idles is closed at once, be it the end or
bytes that nobody asked for. What the event loop can't have seen yet is looked for where that matters: before a request
that may not be sent again, and on a connection that was not used for a moment (`SURE_S`).

How many there are at once is not decided here: there are as many as requests, for which `Instance` has places.
"""

from __future__ import annotations

import math
from collections import deque
from time import monotonic

from gateway.backend.alarms import alarms
from gateway.backend.connection import Connection
from gateway.backend.dialling import Dial

LONGEST_IDLE_S = 1.5  # gunicorn itself keeps connections for 2 s by default, others for longer
LONGEST_LIFE_S = 300.0
SURE_S = 0.005


class Pool:
    """Of one instance, shared by its greenlets; nothing in here switches but the dialling."""

    def __init__(self, dial: Dial, most: int) -> None:
        """At most so many idle."""
        self._dial, self._most = dial, most
        self._idle: deque[Connection] = deque()  # oldest first
        self._drop = self._dropped  # bound once
        self._is_watched = self._is_retired = False
        self.rings_at = math.inf

    @property
    def idle(self) -> int:
        """Connections that nobody uses just now."""
        return len(self._idle)

    @property
    def authority(self) -> str:
        return self._dial.authority

    def take(self, connect_timeout_s: float, *, may_repeat: bool) -> Connection:
        """A connection to send one request on; then `put` it back, or close it. Raises what `Dial.connect` does."""
        now = monotonic()
        while self._idle:
            connection = self._idle.pop()
            idle_s = now - connection.idle_since
            if idle_s <= LONGEST_IDLE_S and ((may_repeat and idle_s <= SURE_S) or not connection.has_news):
                connection.on_news = None
                return connection
            connection.close()
        return self._dial.connect(connect_timeout_s)

    def put(self, connection: Connection) -> None:
        """Keep it for the next request: all that was sent was answered, and nothing came behind."""
        now = monotonic()
        is_old = now - connection.made_at > LONGEST_LIFE_S
        if self._is_retired or is_old or len(self._idle) >= self._most:
            connection.close()
            return
        connection.idle_since = now
        connection.rest(self._drop)
        self._idle.append(connection)
        if not self._is_watched:
            self._watch()

    def retire(self) -> None:
        """Keep none from now on. Who is late still gets one, for himself alone."""
        self._is_retired = True
        while self._idle:
            self._idle.pop().close()

    def ring(self) -> None:
        """For `alarms`: the oldest may have idled for too long."""
        self._is_watched = False
        now = monotonic()
        while self._idle and now - self._idle[0].idle_since >= LONGEST_IDLE_S:
            self._idle.popleft().close()
        if self._idle:
            self._watch()

    def _watch(self) -> None:
        self._is_watched = True
        self.rings_at = self._idle[0].idle_since + LONGEST_IDLE_S
        alarms().set(self)

    def _dropped(self, connection: Connection) -> None:
        self._idle.remove(connection)
        connection.close()
