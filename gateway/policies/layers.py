"""What a composed handler is made of, for `explain`: each policy says about itself, without doing anything, what it
would make of a request.

A policy marks the handler that it gives back with `layer(name, judge)`. `judge` raises the `Problem` that the policy
would refuse the request with, `Answers` if it would not ask further, or returns words for why the request passes. The
innermost handler, `forward` or a view that calls it, carries no mark. A wrapper without one is a policy that tells
nothing about itself; it is listed by the name of the function that made it.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TypeVar, cast

from gateway.exchange import Exchange

Judge = Callable[[Exchange, bool], str]
"""What a policy would say. The second argument tells whether what is shared (Redis) may be looked at."""

UNMARKED = "says nothing about itself beforehand"


class Answers(Exception):
    """Raised by a judge: the policy would answer by itself. `status` 0 is whatever was kept."""

    def __init__(self, words: str, status: int = 0, location: str = "") -> None:
        super().__init__(words)
        self.words, self.status, self.location = words, status, location


H = TypeVar("H", bound=Callable[..., object])
_MARK = "__policy__"


@dataclass(frozen=True, slots=True)
class Layer:
    """One policy of a route. `place` is `file:line` of its decorator, "" for one that the services file asked for."""

    name: str
    judge: Judge
    place: str


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str
    judge: Judge
    marked: object  # `functools.wraps` copies marks to wrappers further out, which are not meant


def layer(name: str, judge: Judge) -> Callable[[H], H]:
    """Mark a policy's handler."""

    def mark(handler: H) -> H:
        setattr(handler, _MARK, _Mark(name, judge, handler))
        return handler

    return mark


def layers(handler: Callable[..., object]) -> Iterator[Layer]:
    """The policies of a composed handler, outermost first."""
    lines = _decorator_lines(inspect.unwrap(handler))
    current: object = handler
    while (wrapped := getattr(current, "__wrapped__", None)) is not None:
        mark = cast("_Mark | None", getattr(current, _MARK, None))
        if mark is not None and mark.marked is current:
            name, judge = mark.name, mark.judge
        else:
            name, judge = _maker_of(current), _say_nothing
        yield Layer(name, judge, lines.get(name, ""))
        current = wrapped


def _say_nothing(_exchange: Exchange, _may_look: bool) -> str:
    return UNMARKED


def _maker_of(wrapper: object) -> str:
    """`weekdays` for the handler `weekdays.<locals>.checked`. Its `__name__` is that of what it wraps."""
    code = wrapper.__code__ if isinstance(wrapper, FunctionType) else None
    return code.co_qualname.partition(".")[0] if code else type(wrapper).__name__


@functools.lru_cache(maxsize=256)
def _decorator_lines(function: Callable[..., object]) -> Mapping[str, str]:
    """By policy, where the decorators of a view stand: `gateway/blueprints/products.py:18`."""
    code = getattr(function, "__code__", None)
    if code is None:
        return {}
    file = Path(code.co_filename)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return {}
    name = "/".join(file.parts[-3:])
    return {
        decorator_name: f"{name}:{decorator.lineno}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == function.__name__
        for decorator in node.decorator_list
        if (decorator_name := _name_of(decorator))
    }


def _name_of(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.id if isinstance(called, ast.Name) else ""
