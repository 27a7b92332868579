"""Keys that mean nothing where they stand: no fault, but hardly meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from gateway.advice.findings import Finding, listed, routes_of, rules_of
from gateway.notation import REGISTRY
from gateway.services_file import CODED, FIRST_VERSION, OF_ALL_ROUTES, ServiceEntry

NOT_WITH_REDIRECT = ("cache", "timeout_s", "request_headers", "mirror", "split")


def warnings(entries: Mapping[str, ServiceEntry]) -> Iterator[Finding]:
    for name, entry in entries.items():
        for check in CHECKS:
            for location, words in check(name, entry):
                yield Finding(("services", name, *location), words)


def _hash(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    is_used = entry.balance == "hash" or any(rules.split for _location, rules in rules_of(entry))
    if "hash_by" in entry.model_fields_set and not is_used:
        yield Finding(("hash_by",), "means nothing without balance: hash or a split")


def _verbatim(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    if entry.verbatim and entry.encoded_slashes:
        yield Finding(("encoded_slashes",), "means nothing beside verbatim: true, with which any path passes")


def _hedge(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    if entry.hedge and len(entry.members) == 1 and _is_one(entry.members[0].url):
        yield Finding(("hedge",), "means nothing with one instance: the second try goes to another one")


def _is_one(url: str) -> bool:
    return url != REGISTRY and not url.startswith("dns:")


def _tls(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    urls = [member.url for place in (entry, *entry.versions.values()) for member in place.members]
    if entry.tls and not any(url == REGISTRY or url.startswith(("https:", "dns:https:")) for url in urls):
        yield Finding(("tls",), "means nothing without an instance at https://")


def _maintenance(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    until = entry.maintenance and entry.maintenance.until
    if until and until <= datetime.now(UTC):
        yield Finding(("maintenance", "until"), "is over: the service is asked again")


def _retries(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    for key in ("retry_on", "retry_budget"):
        if entry.retries == 0 and key in entry.model_fields_set:
            yield Finding((key,), "means nothing with retries: 0")


def _priority(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    for location, rules in rules_of(entry):
        if entry.load is None and rules.priority:
            yield Finding((*location, "priority"), "means nothing with load: off")


def _connect_timeout(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    whole_s = entry.try_timeout_s or entry.timeout_s
    if entry.connect_timeout_s and whole_s and entry.connect_timeout_s > whole_s:
        yield Finding(("connect_timeout_s",), f"is longer than a whole try may take: {whole_s:g}")


def _redirects(name: str, entry: ServiceEntry) -> Iterator[Finding]:
    prefixes = entry.prefixes or [f"/{name}"]
    for location, route in routes_of(entry):
        if route.redirect is None:
            continue
        for key in NOT_WITH_REDIRECT:
            if key in route.model_fields_set:
                yield Finding((*location, key), "means nothing beside redirect, with which the service is not asked")
        own = {f"{prefix}{route.path}".rstrip("/") for prefix in prefixes}
        if route.redirect.to.rstrip("/") in own and not (route.hosts or route.headers or route.query):
            yield Finding((*location, "redirect", "to"), "leads back to this route")


def _limits(name: str, entry: ServiceEntry) -> Iterator[Finding]:
    if entry.limits is None:
        for location, rules in rules_of(entry):
            for key in ("cost", "on_store_down"):
                if key in rules.model_fields_set:
                    yield Finding((*location, key), "means nothing with limits: off")
    named = {route.limit for _location, route in routes_of(entry)} | OF_ALL_ROUTES
    unused = [limit for limit in entry.limits or () if limit not in named]
    if unused and name not in CODED:
        yield Finding(("limits", unused[0]), f"no route has limit: {listed(unused)}")


def _versions(_name: str, entry: ServiceEntry) -> Iterator[Finding]:
    if entry.versions and entry.prefixes == [""]:
        known = listed((FIRST_VERSION, *entry.versions))
        yield Finding(("versions",), f"the prefix / has no /api/v2 and the like; only API-Version tells {known} apart")


CHECKS: tuple[Callable[[str, ServiceEntry], Iterator[Finding]], ...] = (
    _hash,
    _verbatim,
    _hedge,
    _tls,
    _maintenance,
    _retries,
    _priority,
    _connect_timeout,
    _redirects,
    _limits,
    _versions,
)
