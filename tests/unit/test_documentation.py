"""What the documentation says is what the code does."""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine

from common.codes import CODES
from common.problems import Problem
from deploy import reference
from deploy.local import tour
from gateway import create_app
from gateway.exchange import Answer, Handler
from tests.conftest import ALSO
from tests.unit import parts

ROOT = Path(__file__).resolve().parents[2]
OURS = ("common", "gateway", "user_service", "product_service", "order_service")
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
CODE = re.compile(r'(?:\bcode=|default_code = \d+, )"([A-Z_]+)"')


@pytest.mark.parametrize("path", reference.PAGES)
def test_what_comes_from_the_code_is_current(path: str) -> None:
    assert (ROOT / path).read_text() == reference.PAGES[path](), "run: make docs"


def test_the_catalogue_of_codes_and_the_code_agree() -> None:
    used = {code for path in sources() for code in CODE.findall(path.read_text())}

    assert {code.name for code in CODES} == used


def test_every_variable_that_the_code_reads_by_name_is_documented() -> None:
    read = re.compile(r'os\.environ(?:\.get\(|\[)"([A-Z_]+)"')
    named = {name for path in sources() for name in read.findall(path.read_text())}
    documented = {variable.name for variable in reference.variables()}

    assert named <= documented


def test_every_variable_has_a_sentence_and_stands_once() -> None:
    variables = reference.variables()

    assert len({variable.name for variable in variables}) == len(variables)
    assert [variable.name for variable in variables if not variable.sentence.endswith(".")] == []


def test_the_readme_has_the_tour_that_make_run_prints() -> None:
    readme = (ROOT / "README.md").read_text()

    missing = [step.command for step in tour.steps("http://127.0.0.1:5001", "guest") if step.command not in readme]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())

    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_make_targets_that_are_named_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE))

    assert [target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


def test_no_file_names_a_package_index_or_a_path_of_one_machine() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.split(b"\0")
    suspicious = re.compile(rb"index-url|/root/|/work/|files\.pythonhosted|registry\.npmjs")
    here = Path(__file__).resolve()

    found = [
        name.decode()
        for name in files
        if name and (ROOT / name.decode()).resolve() != here and suspicious.search((ROOT / name.decode()).read_bytes())
    ]

    assert [name for name in found if name != "Makefile"] == []  # it forbids index addresses in the lock files


def sources() -> list[Path]:
    return [path for folder in OURS for path in (ROOT / folder).rglob("*.py")]


def test_every_promise_names_a_test_that_exists() -> None:
    rows = re.findall(r"\| \[`(\w+)`\]\(\.\./(tests/[\w/]+\.py)\) \|", (ROOT / "docs/contract.md").read_text())

    missing = [(file, name) for name, file in rows if f"def {name}(" not in (ROOT / file).read_text()]

    assert len(rows) > 60
    assert missing == []


def test_the_rooms_that_the_architecture_names_exist() -> None:
    table = (ROOT / "docs/architecture.md").read_text().partition("## Rooms")[2].partition("## What is shared")[0]
    named = re.findall(r"^\| `([\w./]+)`", table, re.MULTILINE)

    assert len(named) > 10
    assert [room for room in named if not (ROOT / room).exists()] == []


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_readmes_entry_of_a_service_is_all_that_it_takes(tmp_path: Path) -> None:
    (entry,) = blocks("README.md", "yaml")
    file = tmp_path / "services.yaml"
    file.write_text((ROOT / "gateway/services.yaml").read_text() + entry)

    gateway = create_app(parts.settings(gateway_services=file))

    answer = gateway.test_client(use_cookies=False).get("/api/v1/students/")
    assert (answer.status_code, answer.get_json()["code"]) == (401, "TOKEN_REQUIRED")


def test_the_readmes_policy_works_as_it_stands(tmp_path: Path) -> None:
    source = next(block for block in blocks("README.md", "python") if "def weekdays" in block)
    room: dict[str, Callable[[Handler], Handler]] = {}
    exec(source, room)
    closed = room["weekdays"](lambda _exchange: Answer(200, [], ()))
    someone = parts.exchange(parts.runtime(tmp_path))

    with time_machine.travel(datetime(2026, 11, 20, 12, tzinfo=UTC), tick=False):
        on_friday = closed(someone)
    with time_machine.travel(datetime(2026, 11, 21, 12, tzinfo=UTC), tick=False), pytest.raises(Problem) as on_saturday:
        closed(someone)

    assert on_friday.status == 200
    assert (on_saturday.value.status, on_saturday.value.code) == (503, "CLOSED")


def test_the_routes_that_the_readme_shows_stand_in_the_code() -> None:
    shown = next(block for block in blocks("README.md", "python") if "@bp.proxy" in block)
    code = (ROOT / "gateway/blueprints/products.py").read_text()

    assert all(line in code for line in shown.splitlines() if line.startswith("@"))


def test_every_category_of_tests_has_some() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    names = {marker.partition(":")[0] for marker in declared}

    assert names == {"unit", "integration", "security", "performance", "compliance"}
    assert {"unit", "integration"} | {name for name, files in ALSO.items() if files} == names
