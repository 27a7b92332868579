"""Auth: another face of users. `/auth/login` is `/users/login`: same service, same policies, same limits."""

from __future__ import annotations

from gateway.blueprints import ServiceBlueprint, users

bp = ServiceBlueprint("auth", __name__, service="users")
bp.same_routes_as(users.bp)
