"""How fast are cases? `python -m bench.cases [NUMBER]` rehearses so many (default: 500) against our own services.

Prints what reading the file, making the gateway and running the cases take, and how many cases that is in a second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from common.settings import load
from gateway import case_file, cases, create_app
from gateway.settings import GatewaySettings

KINDS = (
    (
        "GET /api/v1/products?page={}",
        "anonymous",
        "{status: passes, route: products.browse, path: '/products?page={}'}",
    ),
    ("DELETE /products/{}", "{user: u1, roles: [customer]}", "{status: 403, code: ROLE_REQUIRED, policy: require_jwt}"),
    ("PUT /products/{}", "{user: boss, roles: [admin]}", "{status: passes, request_headers: {X-User-Id: boss}}"),
    ("POST /api/orders/{}/cancel", "{user: u1, roles: [customer]}", "{status: passes, path: '/orders/{}/cancel'}"),
    ("GET /nowhere/{}", "anonymous", "{status: 404, code: SERVICE_NOT_FOUND, policy: router}"),
)


def written(count: int) -> Iterator[str]:
    """The lines of a file of `count` cases."""
    yield "cases:"
    for number in range(count):
        request, who, expect = (text.replace("{}", str(number)) for text in KINDS[number % len(KINDS)])
        yield f"  - name: Case {number}"
        yield f"    request: {request}"
        yield f"    as: {who}"
        yield f"    expect: {expect}"


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "cases.yaml"
        file.write_text("\n".join(written(count)) + "\n")
        settings = load(GatewaySettings, "gateway")
        moments = [time.perf_counter()]
        read = case_file.read(file, settings)
        moments.append(time.perf_counter())
        app = create_app(settings)
        moments.append(time.perf_counter())
        failed = sum(bool(result.failures) for result in cases.run(app, read))
        moments.append(time.perf_counter())
    reading_s, making_s, running_s = (after - before for before, after in pairwise(moments))
    print(f"{count} cases, {failed} failed: {reading_s + making_s + running_s:.2f} s")
    print(f"  reading the file {reading_s:.2f} s, making the gateway {making_s:.2f} s, running {running_s:.2f} s")
    print(f"  {count / running_s:.0f} cases a second")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
