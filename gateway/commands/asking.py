"""Whom the commands ask: the running gateway, at its operations listener, or one that is made of a file and no more.

Both answer the same pages, so a command need not know which one it talks to. Where nobody listens, commands that can
go by the file do so, and say it on standard error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import click
import requests
from flask import Flask, current_app

from common.http import tuned_session
from gateway.settings import GatewaySettings
from gateway.telling import near

TIMEOUT_S = 10.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - looked up, not bound to
_EXTENSION = "commands"

Document = Mapping[str, Any]

as_json = click.option("--json", "is_json", is_flag=True, help="For programs.")
at_url = click.option("--url", help="Where the running gateway's operations listener is; default: as configured here.")
of_file = click.option(
    "--file",
    type=click.Path(path_type=Path),
    help="Go by this services file; the running gateway is not asked.",
)
with_token = click.option(
    "--token", envvar="GATEWAY_TOKEN", help="An administrator's token; default: the environment's GATEWAY_TOKEN."
)


class Refusal(click.ClickException):
    """What was asked was refused. Exits with 1."""

    def __init__(self, document: Document) -> None:
        super().__init__(str(document.get("detail") or "refused"))
        self.document = document

    def format_message(self) -> str:
        faults = [f"\n  {fault['field']}: {fault['message']}" for fault in self.document.get("errors", ())]
        return f"{self.document.get('code', '')}: {self.message}".removeprefix(": ") + "".join(faults)


class NotRunning(click.ClickException):
    """Nobody listens there. Exits with 1."""

    def __init__(self, url: str) -> None:
        super().__init__(f"no gateway answers at {url}; is it started, and is that its operations listener?")


class Gateway(Protocol):
    """Answers pages of the operations listener."""

    @property
    def is_running(self) -> bool: ...
    @property
    def source(self) -> str:
        """A URL, or the file."""
        ...

    def ask(self, method: str, path: str, document: Document | None = None, *, token: str | None = None) -> Document:
        """The answer's document. Raises `Refusal`, and `NotRunning`."""
        ...


class Running:
    is_running = True

    def __init__(self, url: str) -> None:
        self.source = url
        self._session = tuned_session(pool_size=1)

    def ask(self, method: str, path: str, document: Document | None = None, *, token: str | None = None) -> Document:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        try:
            answer = self._session.request(
                method, f"{self.source}{path}", json=document, headers=headers, timeout=TIMEOUT_S
            )
        except requests.ConnectionError:
            raise NotRunning(self.source) from None
        except (requests.RequestException, ValueError) as error:
            raise click.ClickException(f"{self.source} could not be asked ({type(error).__name__})") from None
        return _read(answer.status_code, answer.text, self.source)


class Rehearsed:
    """A gateway made of the services file at `path`, in this process. Raises `ServicesError` like one that starts."""

    is_running = False

    def __init__(self, path: Path | None = None) -> None:
        surroundings = current()
        self.source = str(path or surroundings.settings.gateway_services)
        self.app = surroundings.make(Path(self.source))
        self._base_url = f"http://localhost:{surroundings.settings.operations_port}"

    def ask(self, method: str, path: str, document: Document | None = None, *, token: str | None = None) -> Document:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = self.app.test_client(use_cookies=False)
        answer = client.open(path, method=method, json=document, headers=headers, base_url=self._base_url)
        return _read(answer.status_code, answer.get_data(as_text=True), self.source)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What commands know of the app that they were called for."""

    settings: GatewaySettings
    create: Callable[[GatewaySettings], Flask]

    def make(self, path: Path) -> Flask:
        """A gateway of the services file at `path`, to be asked and not to be started. Raises `ServicesError`."""
        quiet = self.settings.model_copy(update={"gateway_services": path, "log_level": "CRITICAL"})
        app = self.create(quiet)
        app.extensions["limiter_of_pages"].enabled = False  # nobody is to be kept from asking, nor Redis looked for
        return app

    @property
    def url(self) -> str:
        """Of the operations listener."""
        host = _EVERYWHERE.get(self.settings.operations_host, self.settings.operations_host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.settings.operations_port}"


def surround(app: Flask, surroundings: Surroundings) -> None:
    app.extensions[_EXTENSION] = surroundings


def current() -> Surroundings:
    return cast("Surroundings", current_app.extensions[_EXTENSION])


def running(url: str | None) -> Running:
    return Running((url or current().url).rstrip("/"))


def reach(url: str | None, file: Path | None) -> Gateway:
    """The running gateway unless `file` is given or, without `url`, nobody listens where it should be."""
    if file is not None:
        if url is not None:
            raise click.UsageError("--url and --file exclude each other")
        return Rehearsed(file)
    gateway = running(url)
    try:
        gateway.ask("GET", "/config")
    except NotRunning:
        if url is not None:
            raise
        rehearsed = Rehearsed()
        click.echo(f"no gateway answers at {gateway.source}; this is what {near(rehearsed.source)} says", err=True)
        return rehearsed
    return gateway


def tell(document: Document) -> None:
    """One JSON document on standard output."""
    click.echo(json.dumps(document, indent=2))


def _read(status: int, text: str, source: str) -> Document:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise click.ClickException(f"what answers at {source} is no gateway's operations listener")
    if status >= 400:
        raise Refusal(cast("Document", document))
    return cast("Document", document)
