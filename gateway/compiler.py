"""The `Compiler` makes tables of texts: of the services file as it is now, and of revisions that were good once.

The settings and the `X_SERVICE_URL` variables stay as they were at the start, so what was good once stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import gevent

from common import yaml_file
from common.yaml_file import YamlError
from gateway.blueprints import ServiceBlueprint
from gateway.revisions import Revision, Signature
from gateway.services import Configuration, ServicesError, configuration_of, load_services
from gateway.table import Table, compile_table

if TYPE_CHECKING:
    from gateway.runtime import Runtime

Read = Configuration | ServicesError


class Compiler:
    """One worker's; it remembers nothing between two calls."""

    def __init__(self, runtime: Runtime, urls: Mapping[str, str], explicit: Iterable[ServiceBlueprint]) -> None:
        """`urls` as `load_services`, `explicit` as `compile_table` has it."""
        self._runtime, self._urls, self._explicit = runtime, urls, tuple(explicit)
        self._path = runtime.settings.gateway_services
        self.is_threaded = False  # where greenlets must go on while a text is read

    def signature(self, asked_ns: int) -> Signature:
        """Of the services file."""
        return Signature.of(self._path, asked_ns)

    def signature_of(self, text: str) -> Signature:
        """Of the services file if this is its text, else of none."""
        signature = self.signature(0)
        try:
            return signature if self._path.read_text(encoding="utf-8") == text else Signature()
        except (OSError, UnicodeDecodeError):
            return Signature()

    def read_file(self) -> Configuration:
        """What the services file describes. Raises `ServicesError`."""
        return self._read(partial(load_services, self._path, self._runtime.settings, self._urls))

    def read_revision(self, revision: Revision) -> Configuration:
        """What its text describes, which is said to be from the services file. Raises `ServicesError`."""
        return self.read_text(revision.text, str(self._path))

    def read_text(self, text: str, path: str) -> Configuration:
        """What `text` describes, which is said to be from the file at `path`. Raises `ServicesError`."""

        def load() -> Configuration:
            try:
                file = yaml_file.parse(text, path)
            except YamlError as error:
                raise ServicesError([str(error)]) from None
            return configuration_of(file, self._runtime.settings, self._urls)

        return self._read(load)

    def table(self, configuration: Configuration, number: int) -> Table:
        """Takes over from the table in force whatever means the same. Raises `ServicesError`."""
        runtime = self._runtime
        return compile_table(
            configuration, self._explicit, runtime.settings, runtime.metrics, revision=number, previous=runtime.table
        )

    def _read(self, load: Callable[[], Configuration]) -> Configuration:
        read = _in_thread(partial(_outcome, load)) if self.is_threaded else _outcome(load)
        if isinstance(read, ServicesError):
            raise read
        return read


def _in_thread(work: Callable[[], Read]) -> Read:
    """A file of 500 services takes half a second to read; so the requests of this worker wait for 0.07 s at most."""
    return gevent.get_hub().threadpool.apply(work)


def _outcome(load: Callable[[], Configuration]) -> Read:
    """What `load` gives or raises. Whatever a text can do to its reader is a fault of the text."""
    try:
        return load()
    except ServicesError as error:
        return error
    except Exception as error:  # noqa: BLE001 - nobody foresaw it, and still the operator must hear of it
        return ServicesError([f"the services file can't be understood ({type(error).__name__}: {error})"])
