"""The fast worker and the stock one, side by side before one application: what one refuses the other refuses, and what
the application is told, and the caller, is the same."""

from __future__ import annotations

import re
from collections.abc import Generator

import pytest

from tests.support import hostile
from tests.support.reflected import Reflecting
from tests.support.sound import SOUND

HOSTILE = {
    **{f"framing: {name}": raw for name, raw in hostile.DOUBTFUL_FRAMING.items()},
    **{f"fields: {name}": raw for name, raw in hostile.DOUBTFUL_FIELDS.items()},
    **{f"line: {name}": hostile.request(line=line) for name, line in hostile.DOUBTFUL_LINES.items()},
    **{f"malformed: {name}": raw for name, raw in hostile.MALFORMED.items()},
    **{f"otherwise: {name}": raw for name, (raw, _status, _code) in hostile.OTHERWISE.items()},
}
BESIDE = b"GET /beside HTTP/1.1\r\nHost: a\r\n\r\n"
VOLATILE = re.compile(rb'Date: [^\r]*|X-Request-ID: [^\r]*|"request_id":"[^"]*"')


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Reflecting, Reflecting]]:
    with (
        Reflecting(tmp_path_factory.mktemp("fast"), "fast") as fast,
        Reflecting(tmp_path_factory.mktemp("stock"), "stock") as stock,
    ):
        yield fast, stock


@pytest.mark.parametrize("raw", (HOSTILE | SOUND).values(), ids=HOSTILE | SOUND)
def test_application_and_caller_are_told_the_same(both: tuple[Reflecting, Reflecting], raw: bytes) -> None:
    for requests in (raw, raw + BESIDE, BESIDE + raw + BESIDE):
        fast, stock = (VOLATILE.sub(b"", each.heard(requests)) for each in both)

        assert fast == stock
