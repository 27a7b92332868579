"""What one may do: the names of permissions, the roles that bundle them, and what a route asks for.

A permission is `products:write` or, where it reaches beyond what is one's own, `orders:read:any`. A role is a name for
a bundle of them. Tokens carry both: `permissions` is what the roles bundled when the token was made, or what an API key
was given. Any name of this form is a permission; services of the file may ask for some of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from common.problems import Forbidden

if TYPE_CHECKING:
    from common.identity import Identity

ORDERS_READ, ORDERS_WRITE = "orders:read", "orders:write"
ORDERS_READ_ANY, ORDERS_WRITE_ANY = "orders:read:any", "orders:write:any"
PROFILE_READ, PROFILE_WRITE = "profile:read", "profile:write"
PRODUCTS_WRITE = "products:write"
USERS_READ, USERS_WRITE, ROLES_WRITE = "users:read", "users:write", "roles:write"
AUDIT_READ, OPERATIONS = "audit:read", "operations"

MEANINGS: Mapping[str, str] = {
    ORDERS_READ: "See one's own orders.",
    ORDERS_WRITE: "Place orders, and cancel one's own.",
    PROFILE_READ: "See one's own account.",
    PROFILE_WRITE: "Change one's own account.",
    PRODUCTS_WRITE: "Add, change and remove products.",
    ORDERS_READ_ANY: "See everybody's orders.",
    ORDERS_WRITE_ANY: "Cancel anybody's orders.",
    USERS_READ: "See all accounts and what belongs to them.",
    USERS_WRITE: "Give and take roles, set plans, revoke anybody's API keys.",
    ROLES_WRITE: "Make, change and delete roles.",
    AUDIT_READ: "Read the audit log.",
    OPERATIONS: "Operate the gateway: its configuration, instances and internal pages.",
}
"""The permissions that our own routes ask for."""

CUSTOMER, ADMIN = "customer", "admin"
_OF_CUSTOMERS = frozenset({ORDERS_READ, ORDERS_WRITE, PROFILE_READ, PROFILE_WRITE})
BUILT_IN: Mapping[str, frozenset[str]] = {CUSTOMER: _OF_CUSTOMERS, ADMIN: frozenset(MEANINGS)}
"""The roles that are always there, with what they bundle unless an administrator changed it."""

PATTERN = r"^[a-z][a-z0-9-]*(:[a-z][a-z0-9-]*){0,2}$"
ROLE_PATTERN = r"^[a-z][a-z0-9_-]{0,63}$"
MAX_LENGTH = 64


def parse_permission(text: str) -> str:
    """`text`, if it can be the name of a permission. Raises `ValueError`."""
    if len(text) > MAX_LENGTH or not re.fullmatch(PATTERN, text):
        raise ValueError("must be a permission like products:write or orders:read:any")
    return text


def bundled(roles: Iterable[str]) -> frozenset[str]:
    """What the built-in ones of `roles` permit, for identities of which no more is known."""
    return frozenset[str]().union(*(BUILT_IN.get(role, frozenset()) for role in roles))


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a route asks for, besides a valid token: any of `roles` or any of `permissions` where either is named."""

    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    second_factor: bool = False
    session: bool = False  # a person who logged in, and no API key

    def check(self, identity: Identity) -> None:
        """Raises `Forbidden`, whose code tells what is missing."""
        if self.session and identity.key_id:
            text = "This is for people: log in; an API key is not accepted here."
            raise Forbidden(text, code="SESSION_REQUIRED")
        if not self._is_permitted(identity):
            raise self._lacking()
        if self.second_factor and "otp" not in identity.amr:
            text = "This needs a log-in with a second factor: log in again with a one-time code."
            raise Forbidden(text, code="SECOND_FACTOR_NEEDED")

    def _is_permitted(self, identity: Identity) -> bool:
        if not self.roles and not self.permissions:
            return True
        return bool(self.roles and identity.has_any(self.roles)) or identity.may(*self.permissions)

    def _lacking(self) -> Forbidden:
        ways = [f"the role {' or '.join(self.roles)}"] if self.roles else []
        if not self.permissions:
            return Forbidden(f"This needs {ways[0]}.", code="ROLE_REQUIRED")
        ways += [f"the permission {' or '.join(self.permissions)}"]
        return Forbidden(f"This needs {', or '.join(ways)}.", code="PERMISSION_REQUIRED")

    def __str__(self) -> str:
        """What somebody has who may pass, for `explain`."""
        some = [*(f"role {role}" for role in self.roles), *self.permissions]
        parts = [f"one of: {', '.join(some)}" if some else "a token"]
        parts += ["a second factor"] if self.second_factor else []
        parts += ["a session"] if self.session else []
        return " and ".join(parts)
