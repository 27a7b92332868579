"""API keys: credentials of programs. The gateway exchanges one for a short access token, so services see tokens only.

    active ---rotate---> replaced: still good for `overlap_s`, then gone ---\\
      |---revoke, or rotate without an overlap---> revoked ------------------+---> deleted after `KEPT_FOR`
      |---expires_at---> expired -------------------------------------------/

A key may what its scopes say, but never more than its owner may when it is exchanged; it has none of the owner's roles.
What is kept of it is a digest, so it is shown once, when it is made. Its tokens carry `key:<id>` as their session, and
so a revocation reaches everybody who verifies, as that of a session does. What else changes takes hold when the token
in use has expired, after `TOKEN_LIFETIME_S`; that is why nothing can be set to end earlier than that but by revoking.

ApiKeyError
├── UnknownApiKey   there is none of this id, or it is somebody else's
├── NotActive       it was revoked or replaced, or has expired
├── TooManyApiKeys
├── BeyondOwner     a scope that the owner does not have
├── EndsTooSoon     the time at which it is to expire
└── Refused         what was shown is no key that is good; does not tell why
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, func, or_, select, update
from sqlalchemy.orm import Session

from common import key_format
from common.db import Database
from common.identity import KEY_SESSION
from common.models import new_id, utc_now
from user_service.access_tokens import AccessTokens
from user_service.audit import Audit
from user_service.revocations import Revocations
from user_service.roles import Roles
from user_service.tables import ApiKey, User
from user_service.users import UnknownUser

TOKEN_LIFETIME_S = 300
MOST_PER_USER = 50
KEPT_FOR = timedelta(days=30)
AMR = ("api_key",)


class ApiKeyError(Exception):
    """A rule was broken; the text may be told to the caller."""


class UnknownApiKey(ApiKeyError):
    def __init__(self) -> None:
        super().__init__("There is no such API key.")


class NotActive(ApiKeyError):
    def __init__(self) -> None:
        super().__init__("This API key was revoked or replaced, or has expired.")


class TooManyApiKeys(ApiKeyError):
    def __init__(self, most: int) -> None:
        super().__init__(f"No more than {most} API keys are allowed; delete one that is not used.")


class BeyondOwner(ApiKeyError):
    def __init__(self, scopes: Iterable[str]) -> None:
        super().__init__(f"An API key may no more than you: {', '.join(sorted(scopes))} is not yours to give.")


class EndsTooSoon(ApiKeyError):
    def __init__(self) -> None:
        super().__init__(f"must be at least {TOKEN_LIFETIME_S} seconds from now; to end a key at once, delete it")


class Refused(ApiKeyError):
    def __init__(self) -> None:
        super().__init__("The API key is not valid.")


@dataclass(frozen=True, slots=True)
class Exchanged:
    """A token that was given for a key."""

    access_token: str
    expires_in: int  # seconds
    key_id: str
    plan: str


class ApiKeys:
    """All API keys. Shared by greenlets: each method is a transaction or two. Needs the app's context to mint."""

    def __init__(
        self,
        database: Database,
        tokens: AccessTokens,
        roles: Roles,
        revocations: Revocations,
        audit: Audit,
        *,
        most_per_user: int = MOST_PER_USER,
    ) -> None:
        self._database, self._tokens, self._roles = database, tokens, roles
        self._revocations, self._audit = revocations, audit
        self._most_per_user = most_per_user

    def create(
        self,
        user_id: str,
        name: str,
        scopes: Collection[str],
        *,
        permitted: Collection[str],
        plan: str = "",
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key of this user, who may do what is `permitted`; and its text, which nobody can tell again.

        Raises `BeyondOwner`, `EndsTooSoon`, `TooManyApiKeys` or `UnknownUser`.
        """
        if beyond := set(scopes) - set(permitted):
            raise BeyondOwner(beyond)
        _check_end(expires_at)
        text = key_format.new_key()
        key = ApiKey(name=name, scopes=sorted(set(scopes)), plan=plan, expires_at=expires_at, **_of_user(user_id, text))
        with self._database.write() as session:
            self._check_room(session, user_id, 1)
            session.add(key)
            self._note(session, "api_key.created", key, user_id, {"scopes": " ".join(key.scopes), "plan": plan})
        return key, text

    def of(self, user_id: str) -> Sequence[ApiKey]:
        """The user's keys that were neither revoked nor replaced for good, the newest first."""
        with self._database.read() as session:
            return session.scalars(_shown(user_id).order_by(ApiKey.created_at.desc(), ApiKey.id)).all()

    def rotate(self, user_id: str, key_id: str, *, overlap_s: int = 0) -> tuple[ApiKey, str]:
        """A new key in the place of this one, which stays good for `overlap_s`; and its text.

        Raises `UnknownApiKey`, `NotActive` or `TooManyApiKeys`.
        """
        text, now = key_format.new_key(), utc_now()
        with self._database.write() as session:
            self._check_room(session, user_id, 1 if overlap_s else 0)
            old = _own(session, user_id, key_id)
            if old.replaced_by or not _is_active(old, now):
                raise NotActive
            new = ApiKey(
                name=old.name,
                scopes=old.scopes,
                plan=old.plan,
                expires_at=old.expires_at,
                **_of_user(user_id, text),
            )
            session.add(new)
            old.replaced_by = new.id
            if overlap_s:
                end = now + timedelta(seconds=overlap_s)
                old.expires_at = min(old.expires_at or end, end)
            else:
                self._revoke(session, old, now)
            details = {"new_key": new.id, "overlap_s": str(overlap_s)}
            self._note(session, "api_key.rotated", old, user_id, details)
        return new, text

    def revoke(self, user_id: str, key_id: str, *, by: str) -> None:
        """End the key: everywhere within a second. One that was revoked stays so. Raises `UnknownApiKey`."""
        with self._database.write() as session:
            key = _own(session, user_id, key_id)
            if key.revoked_at is None:
                self._revoke(session, key, utc_now())
                self._note(session, "api_key.revoked", key, by, {})

    def change(
        self,
        user_id: str,
        key_id: str,
        *,
        by: str,
        name: str | None = None,
        plan: str | None = None,
        expiry: tuple[datetime | None] | None = None,
    ) -> ApiKey:
        """The key with what is given; `expiry` is a tuple because None is a time too: never.

        Raises `UnknownApiKey`, `NotActive` or `EndsTooSoon`.
        """
        if expiry:
            _check_end(expiry[0])
        with self._database.write() as session:
            key = _own(session, user_id, key_id)
            if key.replaced_by or not _is_active(key, utc_now()):
                raise NotActive
            key.name = key.name if name is None else name
            key.plan = key.plan if plan is None else plan
            key.expires_at = expiry[0] if expiry else key.expires_at
            self._note(session, "api_key.changed", key, by, {"plan": key.plan, "expires_at": str(key.expires_at)})
        return key

    def exchange(self, text: str) -> Exchanged:
        """A token for the key. Raises `Refused`."""
        if not key_format.is_well_formed(text):
            raise Refused
        now = utc_now()
        with self._database.read() as session:
            key = session.scalar(select(ApiKey).where(ApiKey.digest == key_format.digest(text)))
            user = session.get(User, key.user_id) if key else None
        if key is None or user is None or user.erased_at is not None or not _is_active(key, now):
            raise Refused
        left_s = (key.expires_at - now).total_seconds() if key.expires_at else TOKEN_LIFETIME_S
        lifetime_s = int(min(left_s, TOKEN_LIFETIME_S, self._tokens.lifetime_s))  # revocations are kept no longer
        if lifetime_s < 1:
            raise Refused
        token = self._tokens.mint(
            user,
            session=f"{KEY_SESSION}{key.id}",
            amr=AMR,
            roles=(),
            permissions=self._roles.permissions_of(user).intersection(key.scopes),
            auth_time=now,
            lifetime_s=lifetime_s,
            plan=key.plan,
        )
        return Exchanged(token, lifetime_s, key.id, key.plan)

    def count_uses(self, counts: Mapping[str, int]) -> None:
        """Add to the uses of keys by id. Those who are gone are left out."""
        now = utc_now()
        with self._database.write() as session:
            for key_id in sorted(counts):  # in one order, else two such transactions wait for each other
                used = update(ApiKey).where(ApiKey.id == key_id)
                session.execute(used.values(uses=ApiKey.uses + counts[key_id], last_used_at=now))

    def sweep(self) -> int:
        """Delete keys that ended `KEPT_FOR` ago; how many those were."""
        end = utc_now() - KEPT_FOR
        gone = delete(ApiKey).where(or_(ApiKey.revoked_at < end, ApiKey.expires_at < end)).returning(ApiKey.id)
        with self._database.write() as session:
            return len(session.scalars(gone).all())

    def _check_room(self, session: Session, user_id: str, more: int) -> None:
        """Locks the user, so that no two pass at once. Raises `UnknownUser` or `TooManyApiKeys`."""
        user = session.get(User, user_id, with_for_update=True)
        if user is None or user.erased_at is not None:
            raise UnknownUser
        count = session.scalar(select(func.count()).select_from(_shown(user_id).subquery())) or 0
        if count + more > self._most_per_user:
            raise TooManyApiKeys(self._most_per_user)

    def _revoke(self, session: Session, key: ApiKey, now: datetime) -> None:
        key.revoked_at = now
        self._revocations.revoke_session(session, f"{KEY_SESSION}{key.id}")

    def _note(self, session: Session, event: str, key: ApiKey, by: str, details: dict[str, str]) -> None:
        self._audit.append(session, event, actor=by, subject=key.user_id, details={"key": key.id, **details})


def _of_user(user_id: str, text: str) -> dict[str, str]:
    digest = key_format.digest(text)
    return {"id": new_id(), "user_id": user_id, "beginning": key_format.beginning(text), "digest": digest}


def _own(session: Session, user_id: str, key_id: str) -> ApiKey:
    key = session.scalar(select(ApiKey).where(ApiKey.id == key_id, ApiKey.user_id == user_id).with_for_update())
    if key is None:
        raise UnknownApiKey
    return key


def _shown(user_id: str) -> Select[ApiKey]:
    in_use = or_(ApiKey.replaced_by.is_(None), ApiKey.expires_at > utc_now())
    return select(ApiKey).where(ApiKey.user_id == user_id, ApiKey.revoked_at.is_(None), in_use)


def _is_active(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or key.expires_at > now)


def _check_end(expires_at: datetime | None) -> None:
    if expires_at is not None and expires_at < utc_now() + timedelta(seconds=TOKEN_LIFETIME_S):
        raise EndsTooSoon
