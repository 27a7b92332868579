"""A file of cases as it is written; `cases` says what for. All that is wrong with it is told at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common import yaml_file
from common.identity import KEY_SESSION, Identity
from common.permissions import bundled
from common.yaml_file import Location, YamlError, YamlFile
from gateway.advice.findings import Finding, texts, unknown
from gateway.cases import Case, Expected
from gateway.rehearsing import rehearsal_of
from gateway.settings import GatewaySettings

ANONYMOUS, PASSES = "anonymous", "passes"
FAR_AWAY = 4e9  # Unix time: no identity of a case expires


_WORDS = {
    "missing": "is missing",
    "too_short": "is empty",
    "string_too_short": "is empty",
    "string_type": "must be text",
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "list_type": "must be a list",
}


class CasesError(Exception):
    """The file has no cases that can be run; `problems` holds one `file:line:column: ...` each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("the file of cases has problems:" + "".join(f"\n  {problem}" for problem in problems))
        self.problems = problems


def _nobody(value: object) -> object:
    if isinstance(value, str) and value != ANONYMOUS:
        raise ValueError("must be anonymous, or who calls: {user: u1, roles: [customer]}")
    return None if value == ANONYMOUS else value


def _status(value: object) -> object:
    if value == PASSES:
        return 0
    if not isinstance(value, int) or not 100 <= value <= 599:
        raise ValueError("must be passes, or a status such as 403")
    return value


def _request(value: str) -> str:
    if len(value.split(" ")) != 2:
        raise ValueError("must be a method and a path or URL, like GET /products?page=2")
    return value


def _headers(headers: dict[str, str]) -> dict[str, str]:
    if any(name.lower() in ("authorization", "x-api-key") for name in headers):
        raise ValueError("must not bring a token; say who calls by as: {user: u1, roles: [customer]}")
    return headers


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class UserEntry(_Entry):
    """A caller with a valid token."""

    user: str = Field(min_length=1)
    name: str | None = None
    roles: list[str] = Field(default_factory=list)
    permissions: list[str] | None = None  # default: what the built-in ones of the roles bundle
    second_factor: bool = False
    api_key: str = ""  # its id

    def identity(self) -> Identity:
        return Identity(
            self.user,
            self.name or self.user,
            frozenset(self.roles),
            FAR_AWAY,
            bundled(self.roles) if self.permissions is None else frozenset(self.permissions),
            session=f"{KEY_SESSION}{self.api_key}" if self.api_key else "",
            amr=frozenset({"pwd", "otp"}) if self.second_factor else frozenset({"pwd"}),
        )


Caller = Annotated[UserEntry | None, BeforeValidator(_nobody)]
Headers = Annotated[dict[str, str], AfterValidator(_headers)]


class ExpectEntry(_Entry):
    """What is to come of a request. What is `null` must not be: no such field, nobody who refuses."""

    route: str | None = None
    status: Annotated[int, BeforeValidator(_status)] = 0
    code: str | None = None
    policy: str | None = None
    service: str | None = None
    path: str | None = None
    location: str | None = None
    request_headers: dict[str, str | None] = Field(default_factory=dict)
    response_headers: dict[str, str | None] = Field(default_factory=dict)


class DefaultsEntry(_Entry):
    caller: str = "192.0.2.1"  # an address that documentation is free to use (RFC 5737)
    headers: Headers = Field(default_factory=dict)
    as_: Caller = Field(None, alias="as")


class CaseEntry(_Entry):
    name: str = Field(min_length=1)
    request: Annotated[str, AfterValidator(_request)]
    expect: ExpectEntry
    caller: str = ""
    headers: Headers = Field(default_factory=dict)
    body_bytes: int = Field(0, ge=0)
    as_: Caller = Field(None, alias="as")


class CasesFile(_Entry):
    cases: list[CaseEntry] = Field(min_length=1)
    defaults: DefaultsEntry = Field(default_factory=lambda: DefaultsEntry.model_validate({}))


def read(path: Path, settings: GatewaySettings) -> list[Case]:
    """The cases in the file at `path`. Raises `CasesError` with all that is wrong."""
    try:
        file = yaml_file.read(path)
    except YamlError as error:
        raise CasesError([str(error)]) from None
    try:
        entries = CasesFile.model_validate(file.document)
    except ValidationError as error:
        raise CasesError(texts(file, [*file.faults, *_findings(error)])) from None
    if problems := texts(file, [*file.faults, *_findings_of(entries)]):
        raise CasesError(problems)
    return [_case(entry, entries.defaults, settings, file, i) for i, entry in enumerate(entries.cases)]


def _case(entry: CaseEntry, defaults: DefaultsEntry, settings: GatewaySettings, file: YamlFile, position: int) -> Case:
    method, url = entry.request.split(" ")
    headers = {name.lower(): (name, value) for name, value in (*defaults.headers.items(), *entry.headers.items())}
    who = entry.as_ if "as_" in entry.model_fields_set else defaults.as_
    rehearsal = rehearsal_of(
        method,
        url,
        tuple(headers.values()),
        settings,
        caller=entry.caller or defaults.caller,
        body_bytes=entry.body_bytes,
        identity=who.identity() if who else None,
    )
    said = entry.expect
    words = {name: getattr(said, name) or "" for name in said.model_fields_set & Expected.WORDS}
    status = said.status if "status" in said.model_fields_set else None
    expected = Expected(status, words, said.request_headers, said.response_headers)
    return Case(entry.name, file.place(("cases", position)), rehearsal, expected)


def _findings_of(entries: CasesFile) -> Iterator[Finding]:
    seen: set[str] = set()
    for position, entry in enumerate(entries.cases):
        if entry.name in seen:
            yield Finding(("cases", position, "name"), "stands twice; a case is known by its name")
        if not entry.expect.model_fields_set:
            yield Finding(("cases", position, "expect"), "is empty; say what is to come of the request")
        seen.add(entry.name)


def _findings(error: ValidationError) -> Iterator[Finding]:
    for fault in error.errors(include_url=False):
        location = tuple(part for part in fault["loc"] if part != "[key]")
        yield Finding(location, _words(fault, location))


def _words(fault: Mapping[str, Any], location: Location) -> str:
    if fault["type"] == "extra_forbidden":
        return unknown("there is no key", str(location[-1]), _known_keys(location))
    known = _WORDS.get(fault["type"])
    return known or str(fault["msg"]).removeprefix("Value error, ").removeprefix("Input ").replace("should", "must")


def _known_keys(location: Location) -> list[str]:
    """What may stand beside the key at `location`."""
    kinds = {"defaults": DefaultsEntry, "cases": CaseEntry, "expect": ExpectEntry, "as": UserEntry}
    kind: type[_Entry] = CasesFile
    for part in location[:-1]:
        kind = kinds.get(str(part), kind)
    return sorted(field.alias or name for name, field in kind.model_fields.items())
