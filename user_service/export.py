"""Export: all that the services hold about a user, as one document (GDPR, articles 15 and 20).

Either all of it or nothing: a service that can't be asked makes `ExportUnavailable`. Secrets are not in it, nor are the
ids of other people.

ExportError
└── ExportUnavailable    `service` is who could not be asked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from sqlalchemy import or_, select
from sqlalchemy.orm import DeclarativeBase, Session

from common.audit import ANONYMOUS
from common.db import Database
from common.internal import Internal, InternalError, Json
from common.models import utc_now
from user_service.tables import ApiKey, AuditEntry, LoginSession, RecoveryCode, User

TIMEOUT_S = 10.0
ORDERS_AT_ONCE = 500
ANOTHER = "somebody else"

EXPORTED: Mapping[str, tuple[str, ...]] = {
    "users": ("id", "username", "email", "roles", "created_at", "updated_at", "totp_confirmed_at"),
    "sessions": (
        "id", "amr", "device", "address", "created_at", "last_used_at", "expires_at", "ended_at", "end_reason",
    ),
    "api_keys": (
        "id", "name", "beginning", "scopes", "plan", "created_at", "expires_at", "revoked_at", "replaced_by",
        "last_used_at", "uses",
    ),
    "recovery_codes": ("used_at",),
    "audit_entries": (
        "seq", "at", "event", "outcome", "actor", "subject", "source", "address", "request_id", "details",
    ),
}  # fmt: skip
"""By table, the columns that are told."""


class ExportError(Exception):
    pass


class ExportUnavailable(ExportError):
    def __init__(self, service: str) -> None:
        super().__init__(f"{service} can't be asked just now, and a part is not given for the whole. Try again.")
        self.service = service


class Export:
    """Shared by greenlets; it keeps nothing."""

    def __init__(self, database: Database, orders: Internal, products: Internal) -> None:
        self._database, self._orders, self._products = database, orders, products

    def of(self, user: User) -> dict[str, object]:
        """The document. Raises `ExportUnavailable`."""
        orders = self._ask_orders(user.id)
        reservations = self._ask_products(user.id, [str(order["id"]) for order in orders])
        with self._database.read() as session:
            return {
                "made_at": utc_now(),
                "user": _told(session.get_one(User, user.id)),
                "sessions": _of(session, LoginSession, user.id),
                "api_keys": _of(session, ApiKey, user.id),
                "recovery_codes": _of(session, RecoveryCode, user.id),
                "audit_entries": _entries(session, user.id),
                "orders": orders,
                "reservations": reservations,
            }

    def _ask_orders(self, user_id: str) -> list[Json]:
        try:
            answer = self._orders.get(f"/internal/users/{user_id}/data", timeout_s=TIMEOUT_S)
        except InternalError as error:
            raise ExportUnavailable("order_service") from error
        return cast("list[Json]", answer["orders"])

    def _ask_products(self, user_id: str, orders: Sequence[str]) -> list[Json]:
        found: list[Json] = []
        for begin in range(0, len(orders), ORDERS_AT_ONCE):
            some = {"orders": list(orders[begin : begin + ORDERS_AT_ONCE])}
            try:
                answer = self._products.post(f"/internal/users/{user_id}/data", some, timeout_s=TIMEOUT_S)
            except InternalError as error:
                raise ExportUnavailable("product_service") from error
            found += cast("list[Json]", answer["reservations"])
        return found


def _of(session: Session, table: type[LoginSession | ApiKey | RecoveryCode], user_id: str) -> list[dict[str, object]]:
    return [_told(row) for row in session.scalars(select(table).where(table.user_id == user_id))]


def _entries(session: Session, user_id: str) -> list[dict[str, object]]:
    """What the audit log has about the user; other people in it have no names."""
    about = select(AuditEntry).where(or_(AuditEntry.subject == user_id, AuditEntry.actor == user_id))
    rows = [_told(row) for row in session.scalars(about.order_by(AuditEntry.seq))]
    for row in rows:
        for end in ("actor", "subject"):
            row[end] = row[end] if row[end] in (user_id, ANONYMOUS, "") else ANOTHER
    return rows


def _told(row: DeclarativeBase) -> dict[str, object]:
    return {name: getattr(row, name) for name in EXPORTED[row.__tablename__]}
