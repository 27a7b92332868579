"""`tests.support.reflecting` under one of our workers."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from tests.support import wire
from tests.support.ports import free_port
from tests.support.processes import Process


class Reflecting:
    """A process of its own, stopped at the end of a `with`. `env`: what `worker.conf.py` reads."""

    def __init__(self, directory: Path, worker: str, **env: str) -> None:
        self.port = free_port()
        self.process = Process.gunicorn(
            "tests.support.reflecting:app",
            conf="tests/support/worker.conf.py",
            directory=directory,
            env={"PORT": str(self.port), "WORKER": worker, **env},
            ready_url=f"http://127.0.0.1:{self.port}/",
        )

    def connect(self) -> wire.Connection:
        return wire.Connection(self.port)

    def heard(self, raw: bytes) -> bytes:
        """Everything that is answered to a caller who sends this and no more."""
        with self.connect() as connection:
            connection.send(raw)
            connection.finish_sending()
            return connection.everything()

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
