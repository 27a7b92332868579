"""Who claims a path? Services claim prefixes, perhaps on certain hosts only, and each prefix under several faces.

`/shop` is also `/api/shop`, and `/api/v1/shop` for the first version; further versions are at `/api/v2/shop` alone. The
prefix `/` has no other face. A host that is named goes before `*.example.org`, the longer the better, and that before
no host at all (`matching.host_rank`); where nobody on a host claims the path, the next one is asked.

A path may be claimed once on each host. What is written goes before what is a face: where one service has the prefix
`/api/shop` and another one `/shop`, the latter is reachable as `/shop` and `/api/v1/shop` only.

A look-up follows the labels of the host and the segments of the path; how many services there are makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

from gateway.matching import check_host_pattern
from gateway.services_file import FIRST_VERSION
from gateway.templates import segments_of

T = TypeVar("T")
ANY_HOST = ""


class Claimed(ValueError):
    """Another service has this prefix, or a face of it."""

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(f"{path or '/'} is claimed by {owner} already")
        self.owner = owner


@dataclass(slots=True)
class Mount(Generic[T]):
    """A prefix on a host: who has it, and what stands there, by version."""

    prefix: str  # "/shop", or "" for all
    owner: str  # name of a service
    versions: dict[str, T] = field(default_factory=dict[str, T])


class Found(NamedTuple, Generic[T]):
    """Who claims a path."""

    mount: Mount[T]
    version: str | None  # that the path says
    length: int  # of prefix and face, in segments


class Lost(NamedTuple):
    """A face that `owner` does not have, because `winner` has it for a prefix."""

    path: str
    owner: str
    winner: str


@dataclass(slots=True)
class _Node(Generic[T]):
    below: dict[str, _Node[T]] = field(default_factory=dict[str, "_Node[T]"])
    found: Found[T] | None = None
    is_face: bool = False


def faces(version: str) -> tuple[str, ...]:
    """What may stand before a prefix."""
    own = f"/api/v{version}"
    return ("", "/api", own) if version == FIRST_VERSION else (own,)


class Claims(Generic[T]):
    """All prefixes. Filled first, only read afterwards; greenlets share it without a lock."""

    def __init__(self) -> None:
        self._hosts: dict[str, _Node[T]] = {}  # by pattern
        self.is_by_path = True
        """Whether the host makes no difference, because nobody claims one."""
        self._mounts: dict[tuple[str, str], Mount[T]] = {}
        self.lost: list[Lost] = []

    def claim(self, host: str, prefix: str, owner: str, version: str, make: Callable[[], T]) -> T:
        """What stands at `prefix` for a version of `owner`; made when it is asked for first. Raises `Claimed`."""
        mount = self._mounts.setdefault((host, prefix), Mount(prefix, owner))
        if mount.owner != owner:
            raise Claimed(prefix, mount.owner)
        if version not in mount.versions:
            for face in faces(version) if prefix else ("",):
                self._take(host, face, mount, version)
            mount.versions[version] = make()
        return mount.versions[version]

    def find(self, host: str, segments: Sequence[str]) -> Found[T] | None:
        """Who claims the path for callers that name this `Host`; the longest prefix on the most telling host."""
        if self.is_by_path:
            return self.find_on(ANY_HOST, segments)
        for pattern in (*_spellings(host), ANY_HOST):
            if (found := self.find_on(pattern, segments)) is not None:
                return found
        return None

    def find_on(self, pattern: str, segments: Sequence[str]) -> Found[T] | None:
        """As `find`, among the services that claim exactly this host pattern."""
        node = self._hosts.get(pattern)
        longest = node.found if node else None
        for segment in segments:
            node = node.below.get(segment) if node else None
            if node is None:
                break
            longest = node.found or longest
        return longest

    def _take(self, host: str, face: str, mount: Mount[T], version: str) -> None:
        self.is_by_path = self.is_by_path and host == ANY_HOST
        node = self._hosts.setdefault(host, _Node())
        path = face + mount.prefix
        segments = segments_of(path)
        for segment in segments:
            node = node.below.setdefault(segment, _Node())
        if node.found is not None:
            other = node.found.mount
            if bool(face) == node.is_face:
                raise Claimed(path, other.owner)
            winner, loser = (other, mount) if face else (mount, other)
            self.lost.append(Lost(path, loser.owner, winner.owner))
            if winner is other:
                return
        said = version if face == f"/api/v{version}" else None
        node.found, node.is_face = Found(mount, said, len(segments)), bool(face)


def _spellings(host: str) -> Iterator[str]:
    """The patterns that `host` fits, by `matching.host_rank`, the greatest first. None for what is no host's name."""
    try:
        normal = check_host_pattern(host)
    except ValueError:
        return
    cut = normal.find(":", normal.find("]") + 1)
    name, ports = (normal, ("",)) if cut < 0 else (normal[:cut], (normal[cut:], ""))
    yield from (name + port for port in ports)
    while (dot := name.find(".")) > 0:
        name = name[dot + 1 :]
        yield from (f"*.{name}{port}" for port in ports)
