"""How one of our own processes asks another: JSON over HTTP, with a service token, below `/internal/`.

No caller waits for these answers longer than is said; whoever asks decides what to do without one. A request that found
its connection closed is sent again, so it must do no harm if it arrives twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import requests

from common import service_tokens
from common.http import again_on_a_lost_connection, tuned_session
from common.identity import ISSUER
from common.logs import current_request_id

if TYPE_CHECKING:
    from common.settings import IdentitySettings

Json = Mapping[str, object]


class InternalError(Exception):
    """No use can be made of what came back, or nothing did."""


class InternalUnavailable(InternalError):
    """The other process could not be reached, is not well, or took too long."""


class InternalRefused(InternalError):
    """It answered, and refused. `status` and `code` are the problem's."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.status, self.code = status, code


class Internal:
    """Of one process towards one other. Shared by greenlets: the session's pool does its own locking."""

    def __init__(
        self, base_url: str, secret: str, *, me: str, audience: str, timeout_s: float = 2.0, pool_size: int = 10
    ) -> None:
        """`secret` is `SERVICE_SECRET`; `me` and `audience` are the names of the two components."""
        self._base_url, self._secret, self._me, self._audience = base_url, secret, me, audience
        self._timeout_s = timeout_s
        self._session = tuned_session(pool_size=pool_size)

    def get(self, path: str, query: Mapping[str, str | int] | None = None, *, timeout_s: float | None = None) -> Json:
        """The JSON object at `path`. Raises `InternalUnavailable` or `InternalRefused`."""
        return self._ask("GET", path, query=query, timeout_s=timeout_s)

    def post(self, path: str, body: Json, *, timeout_s: float | None = None) -> Json:
        """What came back, {} for an answer without content. Raises `InternalUnavailable` or `InternalRefused`."""
        return self._ask("POST", path, body=body, timeout_s=timeout_s)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: Json | None = None,
        timeout_s: float | None,
    ) -> Json:
        token = service_tokens.mint(self._secret, issuer=self._me, audience=self._audience)
        headers = {"Authorization": f"Bearer {token}"}
        if request_id := current_request_id():
            headers["X-Request-ID"] = request_id
        try:
            answer = again_on_a_lost_connection(
                lambda: self._session.request(
                    method,
                    self._base_url + path,
                    params=dict(query) if query else None,
                    json=dict(body) if body is not None else None,
                    headers=headers,
                    timeout=timeout_s or self._timeout_s,
                )
            )
        except requests.RequestException as error:
            raise InternalUnavailable(type(error).__name__) from error
        if answer.status_code >= 500:
            raise InternalUnavailable(str(answer.status_code))
        document = _object(answer)
        if answer.status_code >= 400:
            raise InternalRefused(answer.status_code, str(document.get("code", "")))
        return document


def user_service(settings: IdentitySettings, *, me: str, timeout_s: float = 2.0) -> Internal:
    """For the component `me`."""
    secret = settings.effective_service_secret()
    return Internal(settings.user_service_url, secret, me=me, audience=ISSUER, timeout_s=timeout_s)


def _object(answer: requests.Response) -> Json:
    if not answer.content:
        return {}
    try:
        document: object = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InternalUnavailable("not a JSON object")
    return cast("Json", document)
