"""What we stand on is locked by hash, and in no version with a known hole.

Advisories that matter to a gateway are listed here, each with the first version that is free of it, so that no new lock
can go back behind it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", re.MULTILINE)
LOCKS = ("requirements.txt", "requirements-embedded.txt", "requirements-test.txt", "requirements-bench.txt")
ADVISORIES = [
    ("pyjwt", "2.4.0", "CVE-2022-29217: a public key taken for an HMAC secret"),
    ("pyjwt", "2.10.1", "CVE-2024-53861: part of an issuer's name is enough"),
    ("gunicorn", "22.0.0", "CVE-2024-1135: smuggling by Transfer-Encoding"),
    ("gunicorn", "23.0.0", "CVE-2024-6827: smuggling by Transfer-Encoding beside Content-Length"),
    ("gevent", "23.9.0", "CVE-2023-41419: privileges by a crafted request"),
    ("werkzeug", "3.0.6", "CVE-2024-49767: memory used up by multipart bodies"),
    ("werkzeug", "3.1.4", "CVE-2025-66221: device names as paths"),
    ("flask", "3.1.1", "CVE-2025-47278: signed with the wrong one of several keys"),
    ("requests", "2.32.4", "CVE-2024-47081: credentials of .netrc for the wrong host"),
    ("urllib3", "2.6.0", "CVE-2025-66418: endless chains of decompression"),
    ("jinja2", "3.1.6", "CVE-2025-27516: a way out of the sandbox"),
    ("cryptography", "42.0.4", "CVE-2024-26130: a crash on a mismatched key"),
    ("certifi", "2024.7.4", "CVE-2024-39689: a root that is no longer trusted"),
    ("idna", "3.7", "CVE-2024-3651: quadratic work for a crafted name"),
    ("redis", "4.5.4", "CVE-2023-28859: one caller's answer for another"),
    ("dnspython", "2.6.1", "CVE-2023-29483: resolution stopped by a forged answer"),
    ("pydantic", "2.4.0", "CVE-2024-3772: quadratic work for a crafted e-mail address"),
    ("pyyaml", "5.4", "CVE-2020-14343: code from a document"),
    ("orjson", "3.9.15", "CVE-2024-27454: recursion without end"),
    ("mako", "1.2.2", "CVE-2022-40023: quadratic work for a crafted template"),
]


def locked(lock: str) -> Mapping[str, list[Version]]:
    """By name; more than one where the version depends on the platform."""
    found: dict[str, list[Version]] = {}
    for name, version in re.findall(
        r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^ ;\\]+)", (ROOT / lock).read_text(), re.MULTILINE
    ):
        found.setdefault(name, []).append(Version(version))
    return found


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize(
    ("package", "safe", "advisory"), ADVISORIES, ids=[entry[2].split(":")[0] for entry in ADVISORIES]
)
def test_no_lock_goes_back_behind_a_known_hole(lock: str, package: str, safe: str, advisory: str) -> None:
    assert min(locked(lock)[package]) >= Version(safe), advisory


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_locked_by_hash_to_one_version(lock: str) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text())

    assert len(entries) > 50
    assert [
        entry.split()[0] for entry in entries if "==" not in entry.split()[0] or "--hash=sha256:" not in entry
    ] == []
