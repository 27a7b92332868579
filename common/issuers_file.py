"""The file that `TOKEN_ISSUERS` names: who else may sign tokens, as it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from common import yaml_file
from common.identity import ISSUER
from common.key_sets import safe_url
from common.yaml_file import YamlError, YamlFile

NAME = r"[a-z][a-z0-9-]{0,19}"
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
TokenType = Literal["JWT", "at+jwt", "absent"]


class IssuersError(Exception):
    """What is wrong with the file; each of `problems` names its place."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _name(value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise ValueError("must be a name of at most 20 lower-case letters, digits and hyphens, like corp")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Name = Annotated[str, AfterValidator(_name)]
Address = Annotated[str, AfterValidator(safe_url)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mapped(_Entry):
    """How a claim becomes roles, or permissions."""

    claim: Text = Field(description="Its name; with dots the way to it, like realm_access.roles.")
    map: Mapping[str, Texts] = Field({}, description="What each of its values becomes; others become nothing.")
    default: Annotated[tuple[Text, ...], BeforeValidator(_listed)] = Field(
        (), description="What is taken where no value becomes anything."
    )


class IssuerEntry(_Entry):
    name: Name = Field(description="Ours for it; its users are called NAME:SUB.")
    issuer: Text = Field(description="The tokens' `iss`, exactly.")
    jwks_url: Address | None = Field(None, description="Where its keys are.")
    discovery: bool = Field(False, description="Its keys are where its OpenID Connect metadata say.")
    ca_file: Path | None = Field(None, description="Certificates that vouch for it, if the public ones don't.")
    audience: Texts = Field(description="For whom the tokens must be: one of these.")
    algorithms: tuple[Algorithm, ...] = Field(min_length=1, description="How tokens may be signed.")
    typ: tuple[TokenType, ...] = Field(
        ("JWT", "at+jwt", "absent"), min_length=1, description="Which types the tokens' header may name."
    )
    leeway_s: float = Field(5, ge=0, le=300, description="How much its clock may differ.")
    username_claim: Text = Field("preferred_username", description="The claim with the name to show.")
    roles: Mapped | None = Field(None, description="Its users' roles; without, they have none.")
    permissions: Mapped | None = Field(
        None, description="Its users' permissions; without, those of the built-in roles that they have."
    )

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.discovery == (self.jwks_url is not None):
            raise ValueError("needs either jwks_url or discovery: true")
        if self.discovery:
            try:
                safe_url(self.issuer)
            except ValueError as error:
                raise ValueError(f"issuer {error}, for discovery: true") from None
        if self.issuer == ISSUER:
            raise ValueError(f"issuer {ISSUER} is our own")
        return self


class _File(_Entry):
    issuers: tuple[IssuerEntry, ...]


def read(path: Path) -> tuple[IssuerEntry, ...]:
    """The issuers that the file describes. Raises `IssuersError` with all that is wrong."""
    try:
        file = yaml_file.read(path)
    except YamlError as error:
        raise IssuersError([str(error)]) from None
    problems = [f"{file.named(fault.place)}: {fault.words}" for fault in file.faults]
    try:
        entries = _File.model_validate(file.document).issuers
    except ValidationError as error:
        raise IssuersError(problems + list(_sentences(error, file))) from None
    problems += [f"{file.place(('issuers', position))}: {words}" for position, words in _faults(entries)]
    if problems:
        raise IssuersError(problems)
    return entries


def _sentences(error: ValidationError, file: YamlFile) -> Iterator[str]:
    for fault in error.errors(include_url=False, include_input=False):
        location = tuple(part for part in fault["loc"] if part != "[key]")
        keys = ".".join(map(str, location)) or "the file"
        words = {"missing": "is missing", "extra_forbidden": "unknown key"}.get(fault["type"], fault["msg"])
        yield f"{file.place(location)}: {keys}: {words.removeprefix('Value error, ')}"


def _faults(entries: tuple[IssuerEntry, ...]) -> Iterator[tuple[int, str]]:
    """What is wrong between entries that are each right."""
    for position, entry in enumerate(entries):
        before = entries[:position]
        if any(other.name == entry.name for other in before):
            yield position, f"issuers.{position}.name: {entry.name} is the name of another issuer"
        if any(other.issuer == entry.issuer for other in before):
            yield position, f"issuers.{position}.issuer: stands twice"
        if entry.ca_file is not None and not entry.ca_file.is_file():
            yield position, f"issuers.{position}.ca_file: there is no such file"
