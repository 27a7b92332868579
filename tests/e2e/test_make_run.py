"""`make run` itself: its data, its ports, its end."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.processes import is_alive, process_tree
from tests.support.shop import OPEN, Shop


def test_ctrl_c_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    shop = Shop(tmp_path, {})
    shop.start()
    family = process_tree(shop.process.pid)
    shop.process.send(signal.SIGINT)

    code = shop.process.wait(timeout_s=40)

    assert code == 0
    assert len(family) >= 10
    assert [pid for pid in family if is_alive(pid)] == []
    for port in (shop.ports.gateway, shop.ports.operations, shop.ports.users, shop.ports.orders, shop.ports.products):
        assert not is_listening(port)


def test_a_second_run_keeps_the_data_and_reset_starts_over(tmp_path: Path) -> None:
    with Shop(tmp_path, {}, name="first") as first:
        first.register("regular")

    with Shop(tmp_path, {}, name="second") as second:
        kept = second.call("POST", "/users/login", json={"username": "regular", "password": "password123"})
    with Shop(tmp_path, {"RESET": "1"}, name="third") as third:
        gone = third.call("POST", "/users/login", json={"username": "regular", "password": "password123"})

    assert kept.status_code == 200
    assert gone.status_code == 401


def test_all_processes_together_stay_under_400_megabytes(tmp_path: Path) -> None:
    with Shop(tmp_path, {}) as shop:
        shop.register("somebody")
        shop.call("GET", "/products")
        masters = [shop.pid_of(name) for name in ("gateway", "user_service", "order_service", "product_service")]
        pids = {pid for master in masters for pid in process_tree(master)}

        pss_bytes = sum(pss_of(pid) for pid in pids)

    assert pss_bytes < 395 << 20  # Valkey has the other 5


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "GATEWAY_OPERATIONS_PORT", "PRODUCT_SERVICE_PORT"])
def test_a_busy_port_is_one_line_that_names_it_and_its_holder(tmp_path: Path, variable: str) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as holder:
        port = holder.getsockname()[1]
        shop = Shop(tmp_path, {variable: str(port)})
        shop.process.start()

        code = shop.process.wait(timeout_s=30)

    lines = shop.process.log().strip().splitlines()
    assert code == 2
    assert len(lines) == 1
    assert re.search(rf"port {port} is taken by .+ \(pid \d+\); .*{variable}=", lines[0])


def test_all_wrong_settings_are_told_at_once_before_anything_starts(tmp_path: Path) -> None:
    wrong = {"RATE_LIMIT_WINDOW": "soon", "MAX_REQUEST_SIZE": "big", "JWT_SECRET_KEY": "changeme", "LOG_LEVEL": "LOUD"}
    shop = Shop(tmp_path, wrong)
    shop.process.start()

    code = shop.process.wait(timeout_s=30)

    log = shop.process.log()
    assert code == 2
    assert all(name in log for name in wrong)
    assert "Traceback" not in log
    assert "changeme" not in log
    assert OPEN not in log


def test_one_process_that_ends_ends_all(tmp_path: Path) -> None:
    shop = Shop(tmp_path, {}).start()
    family = process_tree(shop.process.pid)
    os.kill(shop.pid_of("order_service"), signal.SIGTERM)

    shop.process.wait(timeout_s=40)

    assert [pid for pid in family if is_alive(pid)] == []


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pss_of(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) << 10  # pyright: ignore[reportOptionalSubscript]
