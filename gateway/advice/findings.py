"""One thing to say about a place in the services file, and the words that all of them share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher, get_close_matches
from typing import NamedTuple

from common.yaml_file import KeyFault, Location, Place, YamlFile
from gateway.services_file import RouteEntry, Rules, ServiceEntry

MOST_LISTED = 50
ALIKE = 0.6  # of two words, from which on one may have been meant for the other
TELLING = 0.1  # how much more alike a word must be to be the only one


class Finding(NamedTuple):
    """`words` go on behind the keys of `location`, as in `services.users.cache: must be true or false`."""

    location: Location
    words: str


def texts(file: YamlFile, findings: Iterable[Finding | KeyFault]) -> list[str]:
    """Each once, as `file:line:column: keys: words`, in the order of the file."""
    told = {(_place(file, finding), _sentence(finding)) for finding in findings}
    return [f"{file.named(place)}: {sentence}" for place, sentence in sorted(told)]


def _place(file: YamlFile, finding: Finding | KeyFault) -> Place:
    return file.at(finding.location) if isinstance(finding, Finding) else finding.place


def _sentence(finding: Finding | KeyFault) -> str:
    return f"{keys(finding.location)}: {finding.words}" if isinstance(finding, Finding) else finding.words


def keys(location: Location) -> str:
    """`services.users.cache`; a key that might be an address with a password is not shown."""
    return ".".join("(not shown)" if "@" in str(part) else str(part) for part in location) or "the file"


def alike(word: str, known: Iterable[str]) -> list[str]:
    """The known word that is most like this one, if one is; two if there is little between them."""
    found = get_close_matches(word, list(known), 2, ALIKE)
    likeness = [SequenceMatcher(None, one, word).ratio() for one in found]
    return [one for one, ratio in zip(found, likeness, strict=True) if ratio > likeness[0] - TELLING]


def question(likely: Iterable[str]) -> str:
    """`did you mean cache? `, or "" for nothing likely."""
    words = " or ".join(likely)
    return f"did you mean {words}? " if words else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """`there is no service prodcts; did you mean products? known: orders, products`."""
    words = list(known)
    return f"{what} {word}; {question(alike(word, words))}known: {listed(words)}"


def listed(words: Iterable[str]) -> str:
    """By comma, not without end; `none` for none."""
    shown = list(words)
    return ", ".join(shown[:MOST_LISTED] + (["..."] if len(shown) > MOST_LISTED else [])) or "none"


def rules_of(entry: ServiceEntry) -> Iterator[tuple[Location, Rules]]:
    """What is said of a service, and of each of its routes, with where that stands within the service."""
    yield (), entry
    yield from routes_of(entry)


def routes_of(entry: ServiceEntry) -> Iterator[tuple[Location, RouteEntry]]:
    yield from ((("routes", position), route) for position, route in enumerate(entry.routes))


def service_keys(name: str, entry: ServiceEntry) -> Iterator[str]:
    """`products` and `products@2`, by which others name it."""
    yield name
    yield from (f"{name}@{version}" for version in entry.versions)
