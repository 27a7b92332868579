"""Who calls, as a verified token says it."""

from __future__ import annotations

from dataclasses import dataclass

ISSUER = "user_service"
KEY_SESSION = "key:"
"""The session of a token that an API key was exchanged for is called so, with the key's id behind it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a valid token speaks for. Times are Unix time in seconds."""

    user_id: str
    username: str
    roles: frozenset[str]
    expires_at: float
    permissions: frozenset[str] = frozenset()
    session: str = ""  # empty for tokens of foreign issuers
    generation: int = 0  # of the user, when the token was made
    issued_at: float = 0.0
    amr: frozenset[str] = frozenset()  # how the user was recognised (RFC 8176)
    issuer: str = ISSUER
    plan: str = ""  # of an API key

    @property
    def key_id(self) -> str:
        """Of the API key that was exchanged for the token; empty for a user's own."""
        return self.session.removeprefix(KEY_SESSION) if self.session.startswith(KEY_SESSION) else ""

    def has_any(self, roles: tuple[str, ...]) -> bool:
        return not roles or not self.roles.isdisjoint(roles)

    def may(self, *permissions: str) -> bool:
        """Whether any of these is permitted."""
        return not self.permissions.isdisjoint(permissions)
