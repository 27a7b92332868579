"""The rules about users: how one gets in, proves who they are and changes what is theirs.

UserError
├── MalformedName      not 3 to 64 letters, digits, `_`, `.` or `-`
├── NameTaken          somebody has it, in this spelling or another
├── PasswordRefused    may not be chosen
│   ├── PasswordTooShort
│   └── PasswordDenied     well known, or the own name
├── WrongSecret        who was asked for one has shown another; `guard` counts these
│   ├── WrongCredentials   at log-in; does not tell what was wrong
│   ├── WrongPassword      the current one, when it is asked for again
│   └── WrongCode          the one-time or recovery code, the same
├── SecondFactorRequired
└── UnknownUser
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from common.db import Database
from user_service.denied_passwords import DeniedPasswords, is_name
from user_service.passwords import Passwords, normalized
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


class PasswordRefused(UserError):
    """`field` is where the password stood."""

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class PasswordTooShort(PasswordRefused):
    def __init__(self, field: str, min_length: int) -> None:
        super().__init__(field, f"The password must have at least {min_length} characters.")


class PasswordDenied(PasswordRefused):
    def __init__(self, field: str, *, is_name: bool) -> None:
        why = "The password must not be the username" if is_name else "This password is too well known"
        super().__init__(field, f"{why}; choose another.")


class WrongSecret(UserError):
    """Whoever guesses sees this."""


class WrongCredentials(WrongSecret):
    def __init__(self) -> None:
        super().__init__("The username or the password is wrong.")


class WrongPassword(WrongSecret):
    def __init__(self) -> None:
        super().__init__("The current password is wrong.")


class WrongCode(WrongSecret):
    def __init__(self) -> None:
        super().__init__("The code is wrong, too old, or was used before; wait for the next one.")


class SecondFactorRequired(UserError):
    def __init__(self) -> None:
        super().__init__("This account asks for a second factor: send a one-time or recovery code as 'otp'.")


class UnknownUser(UserError):
    def __init__(self) -> None:
        super().__init__("There is no such user.")


class Users:
    """All accounts. Shared by greenlets: each method is a transaction or two of its own.

    Passwords are hashed outside of transactions: hashing yields, and whoever yields with the write lock stops all.
    """

    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        *,
        password_min_length: int = PASSWORD_MIN_LENGTH,
        denied: DeniedPasswords | None = None,
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._password_min_length = password_min_length
        self._denied = denied

    def register(
        self, username: str, password: str, email: str | None = None, *, roles: Iterable[str] = (CUSTOMER,)
    ) -> User:
        """The new user. Raises `MalformedName`, `PasswordRefused` or `NameTaken`."""
        self.require_acceptable("password", password, username)
        return self.add(username, password, email, roles=roles)

    def add(
        self, username: str, password: str, email: str | None = None, *, roles: Iterable[str] = (CUSTOMER,)
    ) -> User:
        """`register` without the rule about passwords, for demo data. Raises `MalformedName` or `NameTaken`."""
        if not _is_well_formed(username):
            raise MalformedName
        user = User(
            username=username,
            username_key=key_of(username),
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
        """The user with this name and password. Raises `WrongCredentials`. Whoever guesses here is not stopped:
        that is what `Login` is for."""
        return self.identify(self.named(username), password)

    def identify(self, user: User | None, password: str) -> User:
        """`user`, if the password is theirs. Raises `WrongCredentials`, always after the work of one hash: for
        nobody, and for one who was erased, too."""
        if user is not None and user.erased_at is not None:
            user = None
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
            return session.scalar(select(User).where(User.username_key == key_of(username)))

    def get(self, user_id: str) -> User:
        """Raises `UnknownUser`."""
        with self._database.read() as session:
            return _found(session.get(User, user_id))

    def page(self, offset: int, limit: int) -> tuple[list[User], int]:
        """Users by name, `limit` of them after the first `offset`, and how many there are."""
        is_there = User.erased_at.is_(None)
        rows = select(User).where(is_there).order_by(User.username_key).offset(offset).limit(limit)
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(User).where(is_there)) or 0
            return list(session.scalars(rows)), total

    def change_email(self, user: User, email: str | None) -> User:
        """The user with the new address; None takes it away. Raises `UnknownUser`."""
        with self._database.write() as session:
            changed = _found(session.get(User, user.id, with_for_update=True))  # nobody is erased meanwhile
            changed.email = email
        return changed

    def require_password(self, user: User, password: str) -> None:
        """Raises `WrongPassword`."""
        if not self._passwords.is_right(password, user.password_hash):
            raise WrongPassword

    def change_password(self, user: User, new: str, *, also: Callable[[Session], object] = lambda _: None) -> None:
        """`also` is done in the same transaction. Raises `WrongPassword` when the password is no longer the one that
        `user` was read with."""
        if not self._replace_hash(user, self._passwords.hash(new), also):
            raise WrongPassword

    def require_acceptable(self, field: str, password: str, username: str) -> None:
        """Raises `PasswordRefused` for one that `username` may not choose; `field` is where it stands."""
        if len(normalized(password)) < self._password_min_length:  # code points, whatever they look like
            raise PasswordTooShort(field, self._password_min_length)
        if self._denied is None:
            return
        if is_name(password, username) or self._denied.has(password):
            raise PasswordDenied(field, is_name=is_name(password, username))

    def grant(self, user: User, role: str) -> User:
        """The user with `role` too. Raises `UnknownUser`."""
        with self._database.write() as session:
            granted = _found(session.get(User, user.id))
            if role not in granted.roles:
                granted.roles = [*granted.roles, role]  # a new list: changes inside one go unseen
        return granted

    def _replace_hash(self, user: User, new_hash: str, also: Callable[[Session], object] = lambda _: None) -> bool:
        """Whether the hash was still the one in `user`, and so is the new one now."""
        is_unchanged = (User.id == user.id) & (User.password_hash == user.password_hash)
        change = update(User).where(is_unchanged).values(password_hash=new_hash).returning(User.id)
        with self._database.write() as session:
            is_replaced = session.scalar(change) is not None
            if is_replaced:
                also(session)
        return is_replaced


def _is_well_formed(username: str) -> bool:
    return re.fullmatch(USERNAME_PATTERN, username) is not None


def key_of(username: str) -> str:
    """What a name is in all its spellings."""
    return username.lower()


def _found(user: User | None) -> User:
    if user is None or user.erased_at is not None:
        raise UnknownUser
    return user
