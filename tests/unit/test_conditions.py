"""When the fast way through a connection may be taken."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import gevent
import gunicorn
import pytest
from gunicorn.config import Config

from common.conditions import CHECKED_WITH, why_not
from common.serving import PARSER

ROOT = Path(__file__).parents[2]


def settings(**changed: object) -> Config:
    config = Config()
    for name, value in {**PARSER, **changed}.items():
        config.set(name, value)
    return config


def test_fast_way_is_taken_with_our_settings_and_the_versions_that_are_here() -> None:
    assert why_not(settings()) == ""


def test_versions_that_are_pinned_are_those_that_it_was_checked_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(re.findall(r"^([a-z]+)==([0-9.]+)$", "\n".join(project["dependencies"]), re.MULTILINE))

    assert {name: pinned[name] for name in CHECKED_WITH} == CHECKED_WITH


@pytest.mark.parametrize("module", [gunicorn, gevent], ids=lambda module: module.__name__)
def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setattr(module, "__version__", "1.2.3")

    assert re.search("checked with .* and 1.2.3 is here", why_not(settings()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("header_map", "dangerous"),
        ("forwarded_allow_ips", "127.0.0.1"),
        ("forwarder_headers", "SCRIPT_NAME"),
        ("proxy_protocol", True),
        ("strip_header_spaces", True),
        ("permit_obsolete_folding", True),
        ("permit_unconventional_http_version", True),
        ("casefold_http_method", True),
        ("certfile", "cert.pem"),
    ],
)
def test_setting_under_which_a_head_means_something_else_is_named(name: str, value: object) -> None:
    assert re.search("is_ssl" if name == "certfile" else name, why_not(settings(**{name: value})))


def test_application_that_is_mounted_elsewhere_is_left_to_the_stock_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRIPT_NAME", "/below")

    assert "SCRIPT_NAME" in why_not(settings())
