"""How a caller is refused."""

from __future__ import annotations

from common.problems import ServiceUnavailable, TooManyRequests
from gateway.limits.verdict import Verdict


def too_many(verdict: Verdict) -> TooManyRequests:
    """The refusal of a verdict that refuses. How much all may ask together is not told."""
    assert verdict.refused
    row, bucket = verdict.refused, verdict.refused.bucket
    what = "All callers together may not ask more just now"
    if bucket.tier != "global":
        whose, seconds = _WHOSE.get(bucket.tier, ""), bucket.rate.get_expiry()
        what = f"More than {bucket.rate.amount} requests{whose} in {seconds} seconds are not accepted"
    return TooManyRequests(
        f"{what} (limit '{bucket.name}', tier {bucket.tier}); try again in {row.seconds} seconds.",
        headers=(("Retry-After", str(row.seconds)),),
        limit=bucket.name,
        tier=bucket.tier,
    )


def uncounted() -> ServiceUnavailable:
    """The refusal of a route that must not be used uncounted."""
    return ServiceUnavailable(
        "Requests can't be counted just now, and this address does not take any uncounted.",
        code="LIMITS_UNAVAILABLE",
    )


_WHOSE = {"user": " of a user", "key": " of an API key", "address": " of an address", "burst": " of a caller"}
