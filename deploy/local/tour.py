"""The tour: the few curl lines with which one walks through the shop. Printed by `make run`, executed by the tests.

Each line works as it stands in a shell that ran the ones before it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

JSON = "-H 'Content-Type: application/json'"
BEARER = '-H "Authorization: Bearer $TOKEN"'
FIELD = "python3 -c 'import json, sys; print(json.load(sys.stdin)[\"{}\"])'"


@dataclass(frozen=True, slots=True)
class Step:
    """What one does, and the line that does it."""

    title: str
    command: str


def guest_name() -> str:
    """A name nobody has registered yet, so that the tour can be taken again on the same data."""
    return f"guest-{secrets.token_hex(3)}"


def steps(gateway: str, guest: str) -> list[Step]:
    """The tour against the gateway at `gateway` (`http://host:port`) for a new user called `guest`."""
    credentials = f'{{"username": "{guest}", "password": "password123"}}'
    token, order, key = FIELD.format("access_token"), FIELD.format("id"), FIELD.format("key")
    return [
        Step("Register", f"curl -s {gateway}/users/register {JSON} -d '{credentials}'"),
        Step("Log in", f"TOKEN=$(curl -s {gateway}/users/login {JSON} -d '{credentials}' | {token})"),
        Step("Who am I?", f"curl -s {gateway}/users/profile {BEARER}"),
        Step("Browse", f"curl -s '{gateway}/products?q=night&sort=price'"),
        Step(
            "Order two of product 1",
            f"ORDER=$(curl -s {gateway}/orders {BEARER} {JSON} "
            f"""-d '{{"lines": [{{"product_id": 1, "quantity": 2}}]}}' | {order})""",
        ),
        Step("Read the order back", f"curl -s {gateway}/orders/$ORDER {BEARER}"),
        Step("All my orders", f"curl -s {gateway}/api/v1/orders {BEARER}"),
        Step(
            "A key for a program, that may read orders and nothing else",
            f"""KEY=$(curl -s {gateway}/users/api-keys {BEARER} {JSON} """
            f"""-d '{{"name": "tour", "scopes": ["orders:read"]}}' | {key})""",
        ),
        Step("Call with it", f'curl -s {gateway}/orders -H "X-API-Key: $KEY"'),
        Step(
            "Log out: the token is void everywhere within a second", f"curl -s -X POST {gateway}/auth/logout {BEARER}"
        ),
    ]


def text(gateway: str, operations: str, guest: str) -> str:
    """The tour as `make run` prints it."""
    lines = [f"\n  The shop is open at {gateway} (operations: {operations}). Ctrl-C closes it.\n"]
    for step in steps(gateway, guest):
        lines += [f"  # {step.title}", f"  {step.command}", ""]
    lines += [
        "  # For the operator",
        f"  curl -s {operations}/health/services",
        f"  curl -s {operations}/metrics",
        "",
        "  Demo accounts, known to everybody: admin/admin (administrator), alice/password123, bob/password123.",
        "",
    ]
    return "\n".join(lines)
