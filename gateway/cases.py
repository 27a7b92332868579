"""Tests of a configuration: requests, and what is to become of each, in a YAML file. Nothing is sent and nobody asked.

    defaults: {as: anonymous}
    cases:
      - name: Customers may not change products
        request: DELETE /api/v1/products/7
        as: {user: u1, roles: [customer]}
        expect: {status: 403, code: PERMISSION_REQUIRED, policy: require_jwt}

Only what `expect` names is compared. A case says who calls instead of bringing a token, so no key is needed. What is
counted and kept is not looked at: here no limit is ever used up and nothing is in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from flask import Flask

from gateway.explaining import explain
from gateway.explanation import Explanation
from gateway.rehearsing import Rehearsal

Fields = Mapping[str, str | None]
"""Header fields by name; None for one that must not be there."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is to become of a request, as far as it matters."""

    WORDS: ClassVar[frozenset[str]] = frozenset({"route", "code", "policy", "service", "path", "location"})

    status: int | None = None  # 0: it passes
    words: Mapping[str, str] = field(default_factory=dict[str, str])  # some of `WORDS`; "" for none
    request_headers: Fields = field(default_factory=dict[str, str | None])  # that the service is sent
    response_headers: Fields = field(default_factory=dict[str, str | None])  # whatever the service says in them


@dataclass(frozen=True, slots=True)
class Case:
    """One request, and what is to become of it."""

    name: str
    place: str  # file:line:column
    rehearsal: Rehearsal
    expected: Expected


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a case. `failures` has one line for each expectation that was not met."""

    case: Case
    explanation: Explanation
    failures: tuple[str, ...]
    seconds: float


def run(app: Flask, cases: Iterable[Case]) -> Iterator[Result]:
    """Rehearse each of `cases` at a gateway, which need not run."""
    for case in cases:
        began = time.perf_counter()
        explanation = explain(app, case.rehearsal, may_look=False)
        failures = tuple(failures_of(case.expected, explanation))
        yield Result(case, explanation, failures, time.perf_counter() - began)


def failures_of(expected: Expected, explanation: Explanation) -> Iterator[str]:
    """What is otherwise than `expected`, one line each."""
    if expected.status is not None:
        passes = "passes" if explanation.passes else ""
        yield from _unlike("status", str(expected.status or "passes"), passes or str(explanation.status or "answered"))
    found = {
        "route": explanation.route,
        "code": explanation.code,
        "policy": explanation.decided_by,
        "service": explanation.service,
        "path": explanation.outgoing,
        "location": explanation.location,
    }
    for name, wanted in expected.words.items():
        yield from _unlike(name, wanted, found[name])
    for name, value in expected.request_headers.items():
        yield from _unlike_field(f"request_headers.{name}", name, value, explanation.outgoing_headers)
    for name, value in expected.response_headers.items():
        changed = explanation.response_headers.apply([(name, "(what the service says)")])
        yield from _unlike_field(f"response_headers.{name}", name, value, changed)


def _unlike_field(key: str, name: str, wanted: str | None, pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    found = [value for other, value in pairs if other.lower() == name.lower()]
    if wanted not in found:
        yield from _unlike(key, wanted or "", ", ".join(found))


def _unlike(key: str, wanted: str, found: str) -> Iterator[str]:
    if wanted != found:
        yield f"{key}: expected {wanted or 'none'}, got {found or 'none'}"
