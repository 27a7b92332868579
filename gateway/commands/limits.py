"""`limits show`, `limits reset`: what is counted in Redis of one caller.

They ask Redis itself, the one of the settings, so they work wherever that can be reached. What a worker counts for
itself while Redis is away is neither shown nor reset.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import click
import redis
from flask.cli import with_appcontext

from gateway.callers import whose_address
from gateway.commands.asking import as_json, current, tell
from gateway.limits import Store, store_of
from gateway.limits.window import wait_us
from gateway.telling import plain, table

EVERYBODY = "global"
whose = click.argument("who", metavar="USER|KEY|ADDRESS")


@dataclass(frozen=True, slots=True)
class Counted:
    """One log. `resets_in_s`: until its oldest request leaves."""

    tier: str
    service: str  # "" for the whole gateway
    name: str
    whom: str
    used: int
    limit: int
    window_s: int
    resets_in_s: int


@click.group()
def limits() -> None:
    """What is counted of a caller, and how to forget it."""


@limits.command()
@whose
@as_json
@with_appcontext
def show(who: str, is_json: bool) -> None:
    """Every limit that USER, KEY or ADDRESS has used of: tier, service, how much, until when.

    A user is named by id, an API key by its own; `user:7`, `key:7` and `address:...` leave no doubt. `global` is all.
    """
    found = [row for row in _ask(who) if row.used]
    if is_json:
        tell({"who": who, "limits": [_document(row) for row in found]})
        return
    if not found:
        click.echo(f"nothing is counted of {plain(who)}")
        return
    heading = ("tier", "service", "limit", "whom", "used", "resets in")
    for line in table([heading, *(_line(row) for row in found)]):
        click.echo(line)


@limits.command()
@whose
@as_json
@with_appcontext
def reset(who: str, is_json: bool) -> None:
    """Forget what USER, KEY or ADDRESS has used: the next request is the first one."""
    store = _store()
    try:
        gone = store.forget(_keys(store, who))
    except redis.RedisError as error:
        raise _away(error) from None
    if is_json:
        tell({"who": who, "reset": gone})
    else:
        begin = "limit begins" if gone == 1 else "limits begin"
        click.echo(f"{gone} {begin} anew for {plain(who)}")


def _ask(who: str) -> list[Counted]:
    store = _store()
    try:
        keys = _keys(store, who)
        logs, now_us = store.look(keys) if keys else ([], 0)
    except redis.RedisError as error:
        raise _away(error) from None
    rows: list[Counted] = []
    for key, log in zip(keys, logs, strict=True):
        tier, service, name, whom = key.split("|", 3)
        rest_s = math.ceil(wait_us(log, now_us, 0, log.window_us) / 1e6)
        rows.append(Counted(tier, service, name, whom, log.used, log.limit, log.window_us // 1_000_000, rest_s))
    return rows


def _keys(store: Store, who: str) -> list[str]:
    found = (store.keys(f"*|{_literally(whom)}") for whom in _named(who))
    return sorted({key for keys in found for key in keys if key.count("|") >= 3})


def _named(who: str) -> list[str]:
    """Whom `who` may mean, as the logs call them."""
    if who == EVERYBODY:
        return [""]
    kind, colon, name = who.partition(":")
    if colon and kind in ("user", "key"):
        return [who]
    if colon and kind == "address":
        return [f"address:{whose_address(name)}"]
    return [f"user:{who}", f"key:{who}", f"address:{whose_address(who)}"]


def _literally(text: str) -> str:
    """For a pattern of Redis."""
    return re.sub(r"([\\*?\[\]^-])", r"\\\1", text)


def _store() -> Store:
    return store_of(current().settings, timeout_ms=current().settings.redis_timeout_ms)


def _away(error: redis.RedisError) -> click.ClickException:
    return click.ClickException(f"Redis, at REDIS_URL, could not be asked ({type(error).__name__})")


def _line(row: Counted) -> tuple[str, ...]:
    used = f"{row.used} of {row.limit} in {row.window_s} s"
    return row.tier, row.service or "all", row.name, row.whom or "everybody", used, f"{row.resets_in_s} s"


def _document(row: Counted) -> dict[str, object]:
    return {
        "tier": row.tier,
        "service": row.service or None,
        "limit": row.name,
        "whom": row.whom or None,
        "used": row.used,
        "allowed": row.limit,
        "window_s": row.window_s,
        "resets_in_s": row.resets_in_s,
    }
