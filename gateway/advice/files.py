"""Files that a services file names: whether they are there and hold what they should.

Only looked at when the services file is read, not when a revision is put into force again: what was good once stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from common.tls import CertificateFault, client_context
from gateway.advice.findings import Finding
from gateway.openapi.compiling import NotOpenAPI, compiled
from gateway.services_file import ServiceEntry

_KEYS = {"ca": "ca", "certificate": "client_certificate", "key": "client_key"}


def findings(entries: Mapping[str, ServiceEntry], folder: Path) -> Iterator[Finding]:
    """`folder` is where relative paths begin."""
    for name, entry in entries.items():
        for check in CHECKS:
            for location, words in check(entry, folder):
                yield Finding(("services", name, *location), words)


def _tls(entry: ServiceEntry, folder: Path) -> Iterator[Finding]:
    if entry.tls is None:
        return
    said = entry.tls
    paths = (said.ca, said.client_certificate, said.client_key)
    ca, certificate, key = (str(folder / path) if path else "" for path in paths)
    for named in ((ca, "", ""), ("", certificate, key)):  # so that a fault of one hides none of the other
        try:
            client_context(*named)
        except CertificateFault as fault:
            yield Finding(("tls", _KEYS[fault.part]), fault.words)


def _openapi(entry: ServiceEntry, folder: Path) -> Iterator[Finding]:
    kind, _, path = entry.openapi.partition(":")
    if kind != "file":
        return
    try:
        compiled((folder / path).read_bytes())
    except OSError as error:
        yield Finding(("openapi",), f"can't be read ({error.strerror})")
    except NotOpenAPI as error:
        yield Finding(("openapi",), str(error))


CHECKS: tuple[Callable[[ServiceEntry, Path], Iterator[Finding]], ...] = (_tls, _openapi)
