"""What is wrong with a services file, and what in it is odd. Each with its place, and in words that help.

Faults keep a file from being used:

    values       a single value that can't be, an unknown key; with what may stand there (`allowed`)
    consistency  values of a service that don't go together, and of its routes (`routes`)
    prefixes     services that want the same paths

They are all told at once: `soundness` leaves out what is wrong with values, and the rest is looked at all the same.
Warnings are for what works, but was hardly meant:

    prefixes     paths that a service does not get, because of another one or of the gateway's own pages
    reach        routes that no request gets to
    idle         keys that mean nothing where they stand
"""

from __future__ import annotations

from collections.abc import Mapping

from gateway.advice import consistency, idle, prefixes, reach
from gateway.advice.findings import Finding, texts
from gateway.advice.soundness import Sound, sound
from gateway.services_file import ServicesFile

__all__ = ["Finding", "Sound", "faults", "sound", "texts", "warnings"]


def faults(entries: ServicesFile, damaged: Mapping[str, frozenset[str]], *, request_timeout_s: float) -> list[Finding]:
    """Of entries whose values are well. `damaged` has, by service, the keys that were left out because they are not."""
    return [
        *consistency.findings(entries.services, damaged, request_timeout_s),
        *prefixes.faults(entries, damaged),
    ]


def warnings(entries: ServicesFile) -> list[Finding]:
    """Of entries without a fault."""
    claims = prefixes.claims_of(entries.services)
    return [
        *prefixes.warnings(entries, claims),
        *reach.warnings(entries.services, claims),
        *idle.warnings(entries.services),
    ]
