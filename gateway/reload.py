"""Configurations come into force while the gateway runs: from the services file, from other workers, by going back.

Every worker has a `Loader`; what they know in common stands in a history (`gateway.revisions`). Several times a second
each of them compares two facts, which costs it three calls of `stat`:

1. Is the newest revision another one than that of its table? Then it compiles that text and swaps the table.
2. Is the services file another one than at the last look? When it has been the same for two rounds, so that nobody is
   writing it, the worker takes the lock and looks:

        faults                        they are noted, and told in one line of the log; the table stays
        the text that is in force     only that is noted; faults of before are over
        the text of the last look     noted: it was rolled back, and somebody has merely touched the file
        another good text             published as the next revision; all others follow (1)

`reload`, and a SIGHUP to the master, look at once and take a good file even if it was rolled back.

A worker begins as a copy of the master, which knows the first revision only. So before it takes its first request it
catches up, and after a SIGHUP it looks, too: the master itself reads nothing, and no file can do it harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gateway.compiler import Compiler
from gateway.revisions import History, InDirectory, InMemory, Look, NotNow, Revision, Shelf, Signature, sha256
from gateway.services import Configuration, RouteRule, Service, ServicesError
from gateway.table import Table

if TYPE_CHECKING:
    from gateway.runtime import Runtime

log = structlog.get_logger("configuration")

POLL_S = 0.25
LOCK_WAIT_S = 3.0
LOCK_POLL_S = 0.02

FILE, SIGNAL = "file", "signal"
"""What brought a change about, where it was no user."""


class Refused(Exception):
    """The services file has faults, each `file:line:column: words`."""

    def __init__(self, faults: Iterable[str]) -> None:
        super().__init__("the services file has faults")
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class Change:
    """What has come of a look or a rollback: the number in force before and now, and the file's faults."""

    previous: int
    revision: int
    faults: tuple[str, ...] = ()


class Loader:
    """One worker's. Its greenlets share it: who wants to change the configuration holds the shelf's lock, and a table
    is only ever replaced by a newer one, without a switch of greenlets between the comparison and the swap."""

    def __init__(self, runtime: Runtime, compiler: Compiler, *, clock: Callable[[], float] = time.time) -> None:
        """The table in force is the first revision. `clock` gives seconds of the epoch."""
        self._runtime, self._compiler, self._clock = runtime, compiler, clock
        self._shelf: Shelf = InMemory()
        self._seen: Signature | None = None
        self._complaint = ""
        text, now = runtime.table.configuration.file.text, clock()
        look = Look(compiler.signature_of(text), now, sha256(text))
        self._history = History((Revision(runtime.table.revision, text, now),), look)
        self._shelf.write(self._history)
        self._announce()

    @property
    def compiler(self) -> Compiler:
        return self._compiler

    @property
    def history(self) -> History:
        """What is known of all revisions, also if this worker is about to follow the newest."""
        return self._shelf.read() or self._history

    def share(self, directory: Path) -> None:
        """Keep the history in `directory`, with the other workers. For gunicorn, before the first fork."""
        self._shelf, self._compiler.is_threaded = InDirectory(directory), True
        if self._shelf.read() is None:
            self._shelf.write(self._history)

    def catch_up(self) -> None:
        """Before the first request: take the newest revision, and the file if that was asked for. Never raises."""
        with self._complaining():
            self._follow()
            if self._shelf.asked_ns != self._history.look.signature.asked_ns:
                with self._locked():
                    self._look(SIGNAL, is_asked=True, is_late=True)
        self._announce()

    def tick(self) -> None:
        """Follow the others, and look at the file if it has changed and come to rest. Never raises."""
        with self._complaining():
            self._follow()
            signature, known = self._signature(), self._history.look.signature
            if signature != known and signature == self._seen:
                is_asked = signature.asked_ns != known.asked_ns
                with self._shelf.locked():
                    self._look(SIGNAL if is_asked else FILE, is_asked=is_asked, is_late=True)
            self._seen = signature

    def reload(self, by: str) -> Change:
        """Take the services file now, changed or not. Raises `Refused` and `NotNow`."""
        with self._locked():
            change = self._look(by, is_asked=True)
        if change.faults:
            raise Refused(change.faults)
        return change

    def roll_back(self, by: str) -> Change:
        """Put the revision before the one in force into force again; the file stays as it is, and is not taken until
        it changes or somebody asks. Raises `NothingBefore` and `NotNow`."""
        with self._locked():
            self._follow()
            before, history = self._history.newest, self._history.rolled_back(self._clock())
            configuration = self._compiler.read_revision(history.newest)
            self._publish(history, self._compiler.table(configuration, history.newest.number), "rolled_back", by)
        return Change(before.number, history.newest.number)

    def _look(self, by: str, *, is_asked: bool, is_late: bool = False) -> Change:
        """With the lock. One who `is_late` has come by an older state, so another worker may have looked meanwhile."""
        self._follow()
        before, signature = self._history, self._signature()
        number = before.newest.number
        if is_late and signature == before.look.signature:
            return Change(number, number)
        try:
            configuration = self._compiler.read_file()
            self._stand_still(signature)
            text = configuration.file.text
            look = Look(signature, self._clock(), sha256(text))
            if text == before.newest.text or (not is_asked and look.sha256 == before.look.sha256):
                self._note(before.looked(look), "unchanged", by)
                return Change(number, number)
            history = before.published(text, look)
            self._publish(history, self._compiler.table(configuration, history.newest.number), "adopted", by)
        except ServicesError as error:
            self._stand_still(signature)
            look = Look(signature, self._clock(), faults=tuple(printable(fault) for fault in error.problems))
            self._note(before.looked(look), "refused", by, faults=look.faults)
            return Change(number, number, look.faults)
        return Change(number, history.newest.number)

    def _stand_still(self, signature: Signature) -> None:
        if self._signature() != signature:
            raise NotNow("The services file is being written just now.")

    def _publish(self, history: History, table: Table, outcome: str, by: str) -> None:
        said = difference(self._runtime.table.configuration, table.configuration)
        if (restores := history.newest.restores) is not None:
            said["restores"] = restores
        self._shelf.write(history)  # first: a table that others can't have must not serve
        self._runtime.adopt(table)
        self._note(history, outcome, by, **said)

    def _note(self, history: History, outcome: str, by: str, **said: object) -> None:
        if self._shelf.read() is not history:
            self._shelf.write(history)
        self._history = history
        self._announce()
        self._runtime.metrics.reloaded(outcome)
        tell = log.error if outcome == "refused" else log.info
        tell(f"configuration_{outcome}", by=by, revision=history.newest.number, **said)

    def _follow(self) -> None:
        """Take over what others have written."""
        known, found = self._history, self._shelf.read()
        if found is known:
            return
        if found is None or found.newest.number < known.newest.number:
            self._shelf.write(known)  # somebody has tidied up our directory; whoever knows more has the last word
            return
        if found.newest.number != self._runtime.table.revision:
            configuration = self._compiler.read_revision(found.newest)
            if found.newest.number > self._runtime.table.revision:  # another greenlet may have been faster
                self._runtime.adopt(self._compiler.table(configuration, found.newest.number))
                log.debug("configuration_followed", revision=found.newest.number)
        if found.newest.number >= self._history.newest.number:
            self._history = found
            self._announce()

    def _signature(self) -> Signature:
        return self._compiler.signature(self._shelf.asked_ns)

    def _announce(self) -> None:
        self._runtime.metrics.configured(self._runtime.table.revision, is_ok=not self._history.look.faults)

    @contextmanager
    def _locked(self) -> Generator[None]:
        """The shelf's lock, waited for a little. Raises `NotNow`."""
        give_up_at = time.monotonic() + LOCK_WAIT_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._shelf.locked())
                    break
                except NotNow:
                    if time.monotonic() >= give_up_at:
                        raise
                    time.sleep(LOCK_POLL_S)
            yield

    @contextmanager
    def _complaining(self) -> Generator[None]:
        """What goes wrong is logged, once as long as it is the same, and is tried again with the next tick."""
        try:
            yield
        except NotNow:
            pass
        except Exception as error:
            if repr(error) != self._complaint:
                log.error("configuration_stuck", exc_info=error)
            self._complaint = repr(error)
        else:
            self._complaint = ""


def printable(text: str) -> str:
    """Without what UTF-8 can't say: YAML has escapes for halves of characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def difference(before: Configuration, after: Configuration) -> dict[str, object]:
    """Keys of the services that were added, removed and changed; for the log."""

    def meaning(of: Configuration, key: str) -> tuple[Service, list[RouteRule]]:
        return of.services[key], [replace(rule, place="") for rule in of.routes[key]]

    both = before.services.keys() & after.services.keys()
    lists = {
        "added": after.services.keys() - both,
        "removed": before.services.keys() - both,
        "changed": {key for key in both if meaning(before, key) != meaning(after, key)},
    }
    return {name: sorted(keys) for name, keys in lists.items() if keys}
