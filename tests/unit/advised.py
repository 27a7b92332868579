"""What is said of a services file that a test writes: its faults and warnings, in short."""

from __future__ import annotations

from collections.abc import Mapping

from common.yaml_file import YamlError, parse
from gateway.services import Configuration, ServicesError, configuration_of
from tests.unit import parts

SETTINGS = parts.settings(request_timeout=30)


def read(text: str, urls: Mapping[str, str] | None = None) -> Configuration:
    return configuration_of(parse(text, "f"), SETTINGS, urls or {})


def faults(text: str, urls: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a file, each as `line:column: keys: words`; the keys of the service `things` without it."""
    try:
        read(text, urls)
    except ServicesError as error:
        return [_short(problem) for problem in error.problems]
    except YamlError as error:
        return [_short(str(error))]
    return []


def warnings(text: str) -> list[str]:
    """What is odd about a file, in the same way."""
    return [_short(warning) for warning in read(text).warnings]


def _short(text: str) -> str:
    return text.removeprefix("f:").replace("services.things.", "", 1)


def of_things(entry: str) -> str:
    """A file in which the service `things` says this in line 3; the column of the first key is 5."""
    others = "{url: http://o, versions: {2: {url: http://p}}}"
    return f"services:\n  things:\n    {entry}\n    url: http://t\n  others: {others}\n"
