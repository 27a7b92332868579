"""Services that want the same paths. Two of them: a fault. One that gets less than it seems to: a warning."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from common.yaml_file import Location
from gateway.advice.findings import Finding
from gateway.advice.soundness import WHOLE
from gateway.claims import ANY_HOST, Claimed, Claims
from gateway.services_file import CODED, FIRST_VERSION, RESERVED, ServiceEntry, ServicesFile
from gateway.templates import segments_of

_VERSION = re.compile(r"v[0-9]+")
OWN_PAGES = "/, /health, /ready, /metrics, /services, /problems, /openapi"


def claims_of(
    entries: Mapping[str, ServiceEntry], refused: list[Finding] | None = None, damaged: Collection[str] = ()
) -> Claims[str]:
    """Who claims what, by name of the service, without the `damaged` ones. What can't be is added to `refused`."""
    claims = Claims[str]()
    for name, entry in entries.items():
        for version in () if name in damaged else (FIRST_VERSION, *entry.versions):
            for host in entry.hosts or (ANY_HOST,):
                for prefix, location in prefixes_of(name, entry):
                    try:
                        claims.claim(host, prefix, name, version, lambda name=name: name)
                    except Claimed as error:
                        if refused is not None:
                            refused.append(Finding(location, f"{error}{f' on {host}' if host else ''}"))
    return claims


def prefixes_of(name: str, entry: ServiceEntry) -> list[tuple[str, Location]]:
    """Each with where it stands, which is the service itself where it says none."""
    if name in CODED:
        return [(prefix, ("services", name)) for prefix in CODED[name]]
    if not entry.prefixes:
        return [(f"/{name}", ("services", name))]
    return [(prefix, ("services", name, "prefixes", position)) for position, prefix in enumerate(entry.prefixes)]


def faults(entries: ServicesFile, damaged: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    if entries.pages == "public" and "pages" not in damaged.get(WHOLE, ()):
        yield from _hidden_by_pages(entries.services)
    unsure = [name for name, keys in damaged.items() if not keys.isdisjoint({"prefixes", "hosts"})]
    refused: list[Finding] = []
    claims_of(entries.services, refused, unsure)
    yield from refused


def _hidden_by_pages(entries: Mapping[str, ServiceEntry]) -> Iterator[Finding]:
    for name, entry in entries.items():
        for prefix, location in prefixes_of(name, entry) if name not in CODED else ():
            first, *rest = segments_of(prefix) or [""]
            if first == "api" and (own := [segment for segment in rest if not _VERSION.fullmatch(segment)]):
                words = f"every prefix is reachable below /api and /api/v1 anyway; write /{'/'.join(own)}"
                yield Finding(location, words)
            elif first in RESERVED:
                yield Finding(location, f"the gateway itself answers below /{first}, unless pages: operations hides it")


def warnings(entries: ServicesFile, claims: Claims[str]) -> Iterator[Finding]:
    for lost in claims.lost:
        if lost.owner != lost.winner:
            for prefix, location in prefixes_of(lost.owner, entries.services[lost.owner]):
                if lost.path.endswith(prefix):
                    yield Finding(location, f"{lost.path} leads to {lost.winner}, which has it for a prefix")
    for name, entry in entries.services.items():
        for prefix, location in prefixes_of(name, entry) if name not in CODED else ():
            if not prefix and entries.pages == "public":
                words = f"{OWN_PAGES} are the gateway's own; pages: operations hides these"
                yield Finding(location, words)
            for coded in CODED.keys() & entries.services.keys():
                if any(prefix.startswith(f"{above}/") for above in CODED[coded]):
                    words = f"takes {prefix} from {coded}, whose rules are in gateway/blueprints/{coded}.py"
                    yield Finding(location, words)
