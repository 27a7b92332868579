"""Roles: names for bundles of permissions, and who has them.

`customer` and `admin` are always there; a row of the table says what they bundle when somebody has changed that. A name
in `users.roles` that no role has permits nothing. Whatever changes what somebody may makes that user's tokens void in
the same transaction; a refresh gives tokens with the new permissions.

Nobody gives or takes away what they may not do themselves, so that managing roles is no way to more. Who has all
permissions of our own routes may give any, new ones too.

RoleError
├── UnknownRole
├── RoleProtected      `customer` and `admin` stay, and administrators keep `roles:write` and `users:write`
├── LastAdministrator  there would be nobody left with the role `admin`
└── BeyondOnesOwn      it takes permissions that the one who wants it does not have
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Text, cast, or_, select
from sqlalchemy.orm import Session

from common.db import Database
from common.identity import Identity
from common.permissions import ADMIN, BUILT_IN, MEANINGS, ROLES_WRITE, USERS_WRITE
from user_service.audit import Audit
from user_service.revocations import Revocations
from user_service.tables import Role, User
from user_service.users import UnknownUser

KEPT_BY_ADMIN = frozenset({ROLES_WRITE, USERS_WRITE})
DESCRIPTIONS = {"customer": "Everybody who registers.", "admin": "May do everything."}
COMMAND_LINE = "command line"


class RoleError(Exception):
    """A rule was broken; the text may be told to the caller."""


class UnknownRole(RoleError):
    def __init__(self, name: str) -> None:
        super().__init__(f"There is no role {name}.")


class RoleProtected(RoleError):
    pass


class LastAdministrator(RoleError):
    def __init__(self) -> None:
        super().__init__("This is the last administrator; make another one first.")


class BeyondOnesOwn(RoleError):
    def __init__(self, permissions: Iterable[str]) -> None:
        super().__init__(f"Nobody gives or takes what they may not do themselves: {', '.join(sorted(permissions))}.")


@dataclass(frozen=True, slots=True)
class Bundle:
    """One role, as it is in force."""

    name: str
    permissions: tuple[str, ...]
    description: str
    is_built_in: bool


class Roles:
    """All roles. Shared by greenlets: each method is a transaction of its own.

    `by` is who wants a change; None is the operator at the command line, who may do anything.
    """

    def __init__(self, database: Database, revocations: Revocations, audit: Audit) -> None:
        self._database, self._revocations, self._audit = database, revocations, audit

    def permissions_of(self, user: User) -> frozenset[str]:
        """What the roles of `user` permit just now."""
        with self._database.read() as session:
            return _permitted(session, user.roles)

    def all(self) -> list[Bundle]:
        with self._database.read() as session:
            rows = {row.name: row for row in session.scalars(select(Role))}
        return [_bundle(name, rows.get(name)) for name in sorted(rows.keys() | BUILT_IN.keys())]

    def put(self, name: str, permissions: Collection[str], description: str | None, *, by: Identity | None) -> Bundle:
        """The role, made or changed; None leaves the description. Raises `RoleProtected` or `BeyondOnesOwn`."""
        if name == ADMIN and not KEPT_BY_ADMIN.issubset(permissions):
            raise RoleProtected(f"The role {ADMIN} keeps {' and '.join(sorted(KEPT_BY_ADMIN))}.")
        with self._database.write() as session:
            row = session.get(Role, name, with_for_update=True)
            before = _permitted(session, [name])
            _check_may_give(session, by, before.symmetric_difference(permissions))
            if row is None:
                row = Role(name=name, description=DESCRIPTIONS.get(name, ""))
                session.add(row)
            row.permissions = sorted(set(permissions))
            row.description = row.description if description is None else description
            if before != frozenset(permissions):
                self._revocations.revoke_users(session, [user.id for user in _holders(session, name)])
            self._note(session, "role.changed", by, name, {"permissions": " ".join(row.permissions)})
        return _bundle(name, row)

    def delete(self, name: str, *, by: Identity | None) -> None:
        """Take the role from everybody, and away. Raises `RoleProtected`, `UnknownRole` or `BeyondOnesOwn`."""
        if name in BUILT_IN:
            raise RoleProtected(f"The role {name} can't be deleted.")
        with self._database.write() as session:
            row = session.get(Role, name, with_for_update=True)
            if row is None:
                raise UnknownRole(name)
            _check_may_give(session, by, row.permissions)
            holders = _holders(session, name)
            for user in holders:  # else whoever makes a role of this name gives it to them
                user.roles = [role for role in user.roles if role != name]
            session.delete(row)
            self._revocations.revoke_users(session, [user.id for user in holders])
            self._note(session, "role.deleted", by, name, {})

    def assign(self, user_id: str, names: Collection[str], *, by: Identity | None) -> User:
        """The user with these roles and no others.

        Raises `UnknownUser`, `UnknownRole`, `LastAdministrator` or `BeyondOnesOwn`.
        """
        with self._database.write() as session:
            user = _locked(session, user_id)
            return self._assign(session, user, list(dict.fromkeys(names)), by)

    def grant(self, user_id: str, name: str, *, by: Identity | None = None) -> User:
        """The user with the role `name` too. Raises as `assign` does."""
        with self._database.write() as session:
            user = _locked(session, user_id)
            return self._assign(session, user, list(dict.fromkeys([*user.roles, name])), by)

    def take(self, user_id: str, name: str, *, by: Identity | None = None) -> User:
        """The user without the role `name`. Raises as `assign` does."""
        with self._database.write() as session:
            user = _locked(session, user_id)
            return self._assign(session, user, [role for role in user.roles if role != name], by)

    def _assign(self, session: Session, user: User, names: list[str], by: Identity | None) -> User:
        changed = set(user.roles).symmetric_difference(names)
        for name in changed.intersection(names):
            if name not in BUILT_IN and session.get(Role, name) is None:
                raise UnknownRole(name)
        _check_may_give(session, by, _permitted(session, changed))
        if ADMIN in changed and ADMIN not in names and len(_holders(session, ADMIN)) < 2:
            raise LastAdministrator
        if changed:
            user.roles = names
            self._revocations.revoke_user(session, user)
            self._note(session, "user.roles_changed", by, user.id, {"roles": " ".join(names)})
        return user

    def _note(self, session: Session, event: str, by: Identity | None, subject: str, details: dict[str, str]) -> None:
        actor = by.user_id if by else COMMAND_LINE
        self._audit.append(session, event, actor=actor, subject=subject, details=details)


def _check_may_give(session: Session, by: Identity | None, permissions: Iterable[str]) -> None:
    """Raises `BeyondOnesOwn`. What `by` may is looked up again, for the token may be a second older than that."""
    if by is None:
        return
    own, user = by.permissions, session.get(User, by.user_id)
    if user is not None:
        own &= _permitted(session, user.roles)
    beyond = frozenset(permissions) - own
    if beyond and not own >= MEANINGS.keys():
        raise BeyondOnesOwn(beyond)


def _permitted(session: Session, names: Iterable[str]) -> frozenset[str]:
    wanted = set(names)
    found = {row.name: row for row in session.scalars(select(Role).where(Role.name.in_(wanted)))}
    return frozenset(permission for name in wanted for permission in _bundle(name, found.get(name)).permissions)


def _bundle(name: str, row: Role | None) -> Bundle:
    is_built_in = name in BUILT_IN
    if row is None:
        return Bundle(name, tuple(sorted(BUILT_IN.get(name, ()))), DESCRIPTIONS.get(name, ""), is_built_in)
    return Bundle(name, tuple(row.permissions), row.description, is_built_in)


def _locked(session: Session, user_id: str) -> User:
    """The user, and all administrators, locked: of two who take each other's role away only one may."""
    both = select(User).where(or_(User.id == user_id, _has(ADMIN))).order_by(User.id).with_for_update()
    user = next((user for user in session.scalars(both) if user.id == user_id), None)
    if user is None or user.erased_at is not None:
        raise UnknownUser
    return user


def _holders(session: Session, name: str) -> Sequence[User]:
    holders = select(User).where(_has(name), User.erased_at.is_(None)).order_by(User.id).with_for_update()
    return session.scalars(holders).all()


def _has(name: str) -> ColumnElement[bool]:
    return cast(User.roles, Text).contains(f'"{name}"', autoescape=True)
