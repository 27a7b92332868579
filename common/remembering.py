"""What callers send again and again is worked out once. What they send to fill our memory is not remembered."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec, TypeVar, cast

LONGEST = 300
"""Characters. No honest caller's host, address list or path that comes again is longer."""

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
