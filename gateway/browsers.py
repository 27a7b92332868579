"""What the gateway does for web pages, as the environment says: CORS, sessions in cookies, HSTS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from common.problems import Forbidden
from common.settings import IdentitySettings
from common.tokens import Identity
from gateway import cookies
from gateway.callers import Forwarding
from gateway.cookies import Jar
from gateway.cors import ANY, Cors, check_origins, check_tokens, parse_list

_Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_list), AfterValidator(check_tokens)]
_EXPOSED = (
    "X-Request-ID", "Location", "ETag", "Link", "Retry-After", "RateLimit", "RateLimit-Policy", "X-RateLimit-Limit",
    "X-RateLimit-Remaining", "X-RateLimit-Reset",
)  # fmt: skip
_TAKEN = (
    "Authorization", "Content-Type", "X-API-Key", "X-CSRF-Token", "X-Session-Mode", "Idempotency-Key", "If-Match",
    "If-None-Match", "API-Version", "X-Request-Timeout-Ms",
)  # fmt: skip


class BrowserSettings(IdentitySettings):
    """The settings that only matter to web pages."""

    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(parse_list), AfterValidator(check_origins)] = (
        Field(
            (),
            description="Web pages at these origins may read answers: a JSON list or by comma, each like "
            "https://app.example.com or https://*.example.com; * is every page. Without any, none may, and what "
            "services say about CORS passes.",
        )
    )
    cors_credentials: bool = Field(False, description="Those pages may send cookies. Refused together with *.")
    cors_methods: _Names = Field(
        ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
        examples=["GET, HEAD, POST, PUT, PATCH, DELETE"],
        description="Methods that those pages may use.",
    )
    cors_headers: _Names = Field(
        _TAKEN, examples=[", ".join(_TAKEN)], description="Header fields that those pages may send."
    )
    cors_expose_headers: _Names = Field(
        _EXPOSED, examples=[", ".join(_EXPOSED)], description="Header fields of answers that those pages may read."
    )
    cors_max_age: int = Field(
        600, ge=0, le=86_400, description="Seconds for which browsers may remember what a preflight said."
    )
    cookie_sessions: bool = Field(
        False, description="Lets web pages log in with X-Session-Mode: cookie and keep no token themselves."
    )
    hsts_max_age: int = Field(
        31_536_000,
        ge=0,
        le=63_072_000,
        description="Seconds for which browsers shall use HTTPS only, told on answers over HTTPS; 0: not told.",
    )

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.cors_credentials and ANY in self.cors_origins:
            yield "CORS_CREDENTIALS: must be off while CORS_ORIGINS is *, or any page could act as its visitor"

    def browsers(self) -> Browsers:
        """The rules in force."""
        return Browsers(
            Cors(
                self.cors_origins,
                self.cors_credentials,
                self.cors_methods,
                self.cors_headers,
                self.cors_expose_headers,
                self.cors_max_age,
            ),
            self.hsts_max_age,
            self.is_production,
            self.effective_service_secret().encode() if self.cookie_sessions else b"",
        )


@dataclass(frozen=True, slots=True)
class Browsers:
    """`secret` is for CSRF tokens; b"" where there are no sessions in cookies."""

    cors: Cors = field(default_factory=Cors)
    hsts_max_age_s: int = 0
    is_production: bool = False
    secret: bytes = b""

    def jar(self, forwarding: Forwarding) -> Jar | None:
        """The cookies that count on this connection, None for none."""
        return cookies.jar_for(forwarding, is_production=self.is_production) if self.secret else None

    def session_cookie(self, forwarding: Forwarding) -> str:
        """The name of the cookie that is a credential here, "" for none."""
        jar = self.jar(forwarding)
        return jar.name("access") if jar else ""

    def csrf_token(self, identity: Identity) -> str:
        """What a page must show for what it does in this session."""
        return cookies.csrf_token(self.secret, identity.session or identity.user_id)

    def check_page(self, headers: Mapping[str, str], forwarding: Forwarding) -> None:
        """Raises `Forbidden` when another site's page made the browser send this, as far as the browser says."""
        if not cookies.is_from_our_pages(headers, forwarding, self.cors):
            raise Forbidden("A page of another site may not do this with our cookies.", code="CSRF_REFUSED")

    def check_intent(self, expected: str, headers: Mapping[str, str]) -> None:
        """Raises `Forbidden` unless the request carries this CSRF token."""
        if not cookies.is_shown(expected, headers):
            raise Forbidden(
                "What a cookie is the credential of must carry the session's CSRF token in X-CSRF-Token.",
                code="CSRF_REFUSED",
            )
