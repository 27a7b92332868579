"""Who holds a port? So that a busy one is one clear line before anything starts."""

from __future__ import annotations

import socket
from pathlib import Path


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def holder(port: int) -> str:
    """`name (pid 123)` of the process that listens on `port`, or "another process" where that can't be known."""
    inodes = _listening_inodes(port)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if any(_inode(link) in inodes for link in (folder / "fd").iterdir()):
                return f"{(folder / 'comm').read_text().strip()} (pid {folder.name})"
        except OSError:
            continue  # somebody else's process, or one that has just ended
    return "another process"


def _listening_inodes(port: int) -> set[str]:
    """Inodes of sockets in state LISTEN (0A) on `port`, from /proc/net/tcp and tcp6."""
    found: set[str] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            columns = row.split()
            if columns[3] == "0A" and int(columns[1].rsplit(":", 1)[1], 16) == port:
                found.add(columns[9])
    return found


def _inode(link: Path) -> str:
    target = str(link.readlink())
    return target.removeprefix("socket:[").removesuffix("]") if target.startswith("socket:[") else ""
