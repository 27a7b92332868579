"""Every test has a category, to run one of them: `pytest -m security`. What else a file is about is listed here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ALSO = {
    "security": (
        "contract/test_explicit_and_configured_services_behave_alike.py",
        "integration/test_gateway_identity.py",
        "integration/test_gateway_limits.py",
        "integration/test_gateway_parity.py",
        "integration/test_gateway_parser.py",
        "integration/test_gateway_targets.py",
        "integration/test_gateway_request_fields.py",
        "integration/test_workers_agree.py",
        "unit/test_answer_parsing.py",
        "unit/test_answers_never_mixed.py",
        "unit/test_credentials.py",
        "unit/test_dependencies.py",
        "unit/test_headers.py",
        "unit/test_limits.py",
        "unit/test_plain_heads.py",
        "unit/test_settings.py",
        "unit/test_targets.py",
        "unit/test_tokens.py",
        "unit/test_traps.py",
    ),
    "performance": (
        "integration/test_fast_worker.py",
        "integration/test_gateway_load.py",
        "integration/test_gateway_pooling.py",
        "integration/test_gateway_shedding.py",
        "unit/test_precedence.py",
        "unit/test_table.py",
    ),
    "compliance": (
        "contract/test_services_keep_their_openapi.py",
        "integration/test_gateway_logs.py",
        "unit/test_documentation.py",
        "unit/test_kubernetes.py",
    ),
}
"""By marker, files below this folder."""


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """`unit` or `integration` by folder, the others by the table."""
    if missing := [file for files in ALSO.values() for file in files if not (TESTS / file).exists()]:
        raise pytest.UsageError(f"tests/conftest.py lists files that are not there: {', '.join(missing)}")
    for item in items:
        file = item.path.relative_to(TESTS).as_posix()
        item.add_marker("unit" if file.startswith("unit/") else "integration")
        for marker, files in ALSO.items():
            if file in files:
                item.add_marker(marker)
