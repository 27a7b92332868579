"""The JUnit report of cases, as CI systems read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from gateway.cases import Result
from gateway.telling import near, step_lines

# XML 1.0, 2.2: what no document may contain, not even escaped
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(name: str, results: Sequence[Result], seconds: float) -> bytes:
    """One suite called `name`, with a case for each result."""
    failed = sum(bool(result.failures) for result in results)
    suite = ElementTree.Element(
        "testsuite",
        name=_clean(name),
        tests=str(len(results)),
        failures=str(failed),
        errors="0",
        skipped="0",
        time=f"{seconds:.3f}",
    )
    for result in results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(name), name=_clean(result.case.name), time=f"{result.seconds:.4f}"
        )
        if result.failures:
            failure = ElementTree.SubElement(case, "failure", message=_clean("; ".join(result.failures)))
            lines = [near(result.case.place), *result.failures, *step_lines(result.explanation.steps)]
            failure.text = _clean("\n".join(lines))
    return ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
