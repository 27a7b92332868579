"""Ports for tests."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.support.ports import free_port, free_ports
from tests.support.processes import ROOT


def test_no_port_is_handed_out_twice() -> None:
    ports = free_ports(150)

    assert len(set(ports)) == 150
    assert free_port() not in ports


def test_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 < port < 32_768 for port in free_ports(5))


def test_a_port_that_somebody_listens_on_is_passed_over() -> None:
    port = free_port()

    with socket.create_server(("127.0.0.1", port + 1)):
        assert free_port() != port + 1


def test_two_processes_never_get_the_same_port() -> None:
    program = "from tests.support.ports import free_ports; print(*free_ports(99))"
    ours = set(free_ports(99))

    output = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True).stdout

    assert ours.isdisjoint(int(port) for port in output.split())
