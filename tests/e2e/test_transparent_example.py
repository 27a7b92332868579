"""The example of docs/transparent.md: a proxy that one file and one variable make of the gateway."""

from __future__ import annotations

from pathlib import Path

from tests.support import wire
from tests.support.ports import free_ports
from tests.support.processes import Process
from tests.support.stub import StubService


def test_the_example_needs_nothing_but_the_address_of_the_site(tmp_path: Path) -> None:
    port, operations_port = free_ports(2)

    with StubService() as site:
        env = {
            "GATEWAY_SERVICES": "examples/transparent.yaml",
            "SITE_SERVICE_URL": site.url,
            "GATEWAY_PORT": str(port),
            "GATEWAY_OPERATIONS_PORT": str(operations_port),
            "WEB_CONCURRENCY": "1",
        }
        gateway = Process.gunicorn(
            "gateway.wsgi:app",
            conf="gateway/gunicorn.conf.py",
            directory=tmp_path,
            env=env,
            ready_url=f"http://127.0.0.1:{operations_port}/health",
        )
        with gateway:
            answer = wire.request(
                port, "propfind", "/a/../b%2f//c?%zz", [("Authorization", "Bearer of somebody else")], b"body"
            )
            ready = wire.get(operations_port, "/ready")

    assert ready.status == 200  # nobody wants a token, so nobody has to give keys
    (received,) = site.requests
    assert (answer.status, received.method, received.target) == (200, "propfind", "/a/../b%2f//c?%zz")
    assert received.headers == [
        ("Host", f"127.0.0.1:{port}"),
        ("Authorization", "Bearer of somebody else"),
        ("Content-Length", "4"),
        ("Via", "1.1 gateway"),
    ]
    assert received.body == b"body"
