"""Which worker of a host does what one of them is to do for all? The one that holds a lock.

The workers of a gunicorn master share a directory; who gets the lock on a file in it is on duty. The kernel gives the
lock back when the process that holds it ends, however it ends, and the next one that asks gets it. A lock belongs to
the file that was opened, so it must be opened after the fork.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

LOCK = "duty"


class Duty:
    """One worker's view. Nothing here waits."""

    def __init__(self, directory: str | None) -> None:
        """`directory` is what the workers of the host share; None: there is no other worker."""
        self._path = Path(directory, LOCK) if directory else None
        self._file: int | None = None
        self.host = f"{socket.gethostname()}:{Path(directory).name if directory else os.getpid()}"
        """The name that the workers with this duty have in common, and no others."""

    @property
    def is_mine(self) -> bool:
        return self._path is None or self._file is not None

    def seek(self) -> bool:
        """Take the duty, if nobody has it. Whether it is mine now."""
        if self.is_mine or self._path is None:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # the directory is gone: work that two do is better than work that nobody does
            return True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return False
        self._file = file
        return True

    def give_back(self) -> None:
        """Somebody else may have it; this worker does not want it any more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
