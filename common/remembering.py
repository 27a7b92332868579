"""What callers send again and again is worked out once. What they send to fill our memory is not remembered, or not for
long."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, Generic, ParamSpec, TypeVar, cast

LONGEST = 300
"""Characters. No honest caller's host, address list or path that comes again is longer."""

MOST_NAMES = 1000
"""More than honest callers, services and applications have."""

Name = TypeVar("Name", str, bytes)
K = TypeVar("K")
V = TypeVar("V")
P = ParamSpec("P")
R = TypeVar("R")
Ruled = Callable[Concatenate[str, P], R]


def remembered(most: int) -> Callable[[Ruled[P, R]], Ruled[P, R]]:
    """For a pure function whose first argument is a text that callers choose: results of texts up to `LONGEST` are
    kept, the `most` that were used last. They must not be changed."""

    def decorate(rule: Ruled[P, R]) -> Ruled[P, R]:
        known = cast("Ruled[P, R]", lru_cache(maxsize=most)(rule))

        @wraps(rule)
        def look(text: str, /, *rest: P.args, **more: P.kwargs) -> R:
            return (known if len(text) <= LONGEST else rule)(text, *rest, **more)

        return look

    return decorate


class Known(dict[Name, V]):
    """What a pure rule says of the names of fields: looked up like any dictionary, and remembered of those that are no
    longer than `LONGEST`. When there are `MOST_NAMES`, one more has all forgotten: so odd names that somebody sends
    take nobody's place for long, and a look costs nothing but itself."""

    def __init__(self, rule: Callable[[Name], V]) -> None:
        super().__init__()
        self._rule = rule

    def __missing__(self, name: Name) -> V:
        value = self._rule(name)
        if len(name) <= LONGEST:
            if len(self) >= MOST_NAMES:
                self.clear()
            self[name] = value
        return value


class Recent(Generic[K, V]):
    """A mapping of at most `most` entries; the half of them that were used last are always there.

    To forget the one that was not used for longest, each look would change a list of all. Here entries are in a young
    and an old half. What is used becomes young; when the young half is full it is the old one from now on, and what
    was old is forgotten. Shared by greenlets: each method is one step.
    """

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        value = self._young.get(key)
        if value is None and (value := self._old.pop(key, None)) is not None:
            self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        if len(self._young) >= self._half and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def drop(self, key: K) -> None:
        """Also one that is not there."""
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self._young.clear()
        self._old.clear()
