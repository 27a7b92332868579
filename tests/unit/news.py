"""A bus without Redis, for tests that need several workers in one process."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from typing import cast

from gateway.bus import Message, Take


class Board:
    """Where the workers put up their news: all others who are connected hear them at once. `told` keeps them all."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.told: list[tuple[str, Message]] = []

    def of(self, topic: str) -> list[Message]:
        return [message for named, message in self.told if named == topic]


class End:
    """One worker's, like `gateway.bus.Bus`. Anything that is no JSON fails."""

    def __init__(self, board: Board) -> None:
        self.on_reconnect: list[Callable[[], None]] = []
        self.is_connected = True
        self._takers: defaultdict[str, list[Take]] = defaultdict(list)
        self._board = board
        board.ends.append(self)

    def on(self, topic: str, take: Take) -> None:
        self._takers[topic].append(take)

    def tell(self, topic: str, message: Message) -> None:
        sent = cast("Message", json.loads(json.dumps(message)))
        self._board.told.append((topic, sent))
        for end in self._board.ends:
            if end is not self and end.is_connected:
                end.hear(topic, sent)

    def hear(self, topic: str, message: Message) -> None:
        for take in self._takers[topic]:
            take(message)

    def reconnect(self) -> None:
        self.is_connected = True
        for catch_up in self.on_reconnect:
            catch_up()
