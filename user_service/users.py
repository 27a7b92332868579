"""The rules about users: how one gets in, proves who they are and changes what is theirs.

UserError
├── MalformedName      not 3 to 64 letters, digits, `_`, `.` or `-`
├── NameTaken          somebody has it, in this spelling or another
├── PasswordTooShort
├── WrongCredentials   at log-in; does not tell which of the two was wrong
├── WrongPassword      the current one, when it is to be changed
└── UnknownUser
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError

from common.db import Database
from user_service.passwords import Passwords
from user_service.tables import User

CUSTOMER, ADMIN = "customer", "admin"
USERNAME_PATTERN = r"^[A-Za-z0-9_.-]{3,64}$"
PASSWORD_MIN_LENGTH = 8  # NIST SP 800-63B, 3.1.1.2; a setting may ask for more


class UserError(Exception):
    """A rule was broken; the text may be told to the caller."""


class MalformedName(UserError):
    def __init__(self) -> None:
        super().__init__("A username has 3 to 64 characters: letters, digits, '_', '.' and '-'.")


class NameTaken(UserError):
    def __init__(self) -> None:
        super().__init__("This username is taken; choose another.")


class PasswordTooShort(UserError):
    def __init__(self, field: str, min_length: int) -> None:
        super().__init__(f"The password must have at least {min_length} characters.")
        self.field = field


class WrongCredentials(UserError):
    def __init__(self) -> None:
        super().__init__("The username or the password is wrong.")


class WrongPassword(UserError):
    def __init__(self) -> None:
        super().__init__("The current password is wrong.")


class UnknownUser(UserError):
    def __init__(self) -> None:
        super().__init__("There is no such user.")


class Users:
    """All accounts. Shared by greenlets: each method is a transaction or two of its own.

    Passwords are hashed outside of transactions: hashing yields, and whoever yields with the write lock stops all.
    """

    def __init__(
        self, database: Database, passwords: Passwords, *, password_min_length: int = PASSWORD_MIN_LENGTH
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._password_min_length = password_min_length

    def register(
        self, username: str, password: str, email: str | None = None, *, roles: Iterable[str] = (CUSTOMER,)
    ) -> User:
        """The new user. Raises `MalformedName`, `PasswordTooShort` or `NameTaken`."""
        self._require_length("password", password)
        return self.add(username, password, email, roles=roles)

    def add(
        self, username: str, password: str, email: str | None = None, *, roles: Iterable[str] = (CUSTOMER,)
    ) -> User:
        """`register` without the rule about passwords, for demo data. Raises `MalformedName` or `NameTaken`."""
        if not _is_well_formed(username):
            raise MalformedName
        user = User(
            username=username,
            username_key=_key(username),
            email=email,
            password_hash=self._passwords.hash(password),
            roles=list(roles),
        )
        try:
            with self._database.write() as session:
                session.add(user)
        except IntegrityError as error:
            raise NameTaken from error
        return user

    def authenticate(self, username: str, password: str) -> User:
        """The user with this name and password. Raises `WrongCredentials`, always after the work of one hash."""
        user = self.named(username)
        if not self._passwords.is_right(password, user.password_hash if user else None) or user is None:
            raise WrongCredentials
        if self._passwords.is_outdated(user.password_hash):
            self._replace_hash(user, self._passwords.hash(password))
        return user

    def named(self, username: str) -> User | None:
        """The user of this name, in any spelling."""
        if not _is_well_formed(username):  # PostgreSQL does not even take a NUL to compare with
            return None
        with self._database.read() as session:
            return session.scalar(select(User).where(User.username_key == _key(username)))

    def get(self, user_id: str) -> User:
        """Raises `UnknownUser`."""
        with self._database.read() as session:
            return _found(session.get(User, user_id))

    def page(self, offset: int, limit: int) -> tuple[list[User], int]:
        """Users by name, `limit` of them after the first `offset`, and how many there are."""
        rows = select(User).order_by(User.username_key).offset(offset).limit(limit)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(User)) or 0
            return list(session.scalars(rows)), total

    def change_email(self, user: User, email: str | None) -> User:
        """The user with the new address; None takes it away. Raises `UnknownUser`."""
        with self._database.write() as session:
            changed = _found(session.get(User, user.id))
            changed.email = email
        return changed

    def change_password(self, user: User, current: str, new: str) -> None:
        """Raises `PasswordTooShort`, or `WrongPassword` when `current` is not, or no longer, the password."""
        self._require_length("new_password", new)
        if not self._passwords.is_right(current, user.password_hash):
            raise WrongPassword
        if not self._replace_hash(user, self._passwords.hash(new)):
            raise WrongPassword

    def grant(self, user: User, role: str) -> User:
        """The user with `role` too. Raises `UnknownUser`."""
        with self._database.write() as session:
            granted = _found(session.get(User, user.id))
            if role not in granted.roles:
                granted.roles = [*granted.roles, role]  # a new list: changes inside one go unseen
        return granted

    def _require_length(self, field: str, password: str) -> None:
        if len(password) < self._password_min_length:
            raise PasswordTooShort(field, self._password_min_length)

    def _replace_hash(self, user: User, new_hash: str) -> bool:
        """Whether the hash was still the one in `user`, and so is the new one now."""
        is_unchanged = (User.id == user.id) & (User.password_hash == user.password_hash)
        change = update(User).where(is_unchanged).values(password_hash=new_hash).returning(User.id)
        with self._database.write() as session:
            return session.scalar(change) is not None


def _is_well_formed(username: str) -> bool:
    return re.fullmatch(USERNAME_PATTERN, username) is not None


def _key(username: str) -> str:
    return username.lower()


def _found(user: User | None) -> User:
    if user is None:
        raise UnknownUser
    return user
