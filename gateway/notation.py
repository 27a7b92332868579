"""How single values are written in the services file: rates, sizes, addresses, names, paths.

Each type reads a value and says in words what would be right, and describes itself for the JSON Schema, from which
editors and `advice` take the rest: bounds, alternatives, and what to say of a text that does not fit its pattern.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import datetime
from typing import Annotated, Literal, TypeVar

from limits import parse_many
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from urllib3.util import parse_url

from gateway.backend.dns import parse_source as parse_dns_source
from gateway.callers import IPNetwork
from gateway.matching import Condition, check_host_pattern
from gateway.rewriting import PathTemplate, check_header_name, check_header_value, check_prefix, check_redirect
from gateway.settings import parse_size

Strategy = Literal["round-robin", "least-requests", "peak-ewma", "hash"]
"""How a balancer chooses, see `backend.balancing`."""
Priority = Literal["high", "normal", "low"]
WhenDown = Literal["local", "open", "closed"]
"""What becomes of requests that Redis can't count, see `limits.counting`."""

FIRST_VERSION = "1"
NAME = r"^[a-z][a-z0-9-]{0,62}$"
TARGET_NAME = r"^[a-z][a-z0-9-]{0,62}(@[1-9][0-9]{0,3})?$"
VERSION = r"^([2-9]|[1-9][0-9]{1,3})$"
REGISTRY = "registry"
_EXTRA = re.compile(r"[?#]|[^!-~]")  # urllib3 tells an empty query from none only by our looking
_PATH = re.compile(r"/[!-~]*")
_NOT_IN_PATH = re.compile(r"[?#\\]|(^|/)\.\.?(/|$)")
_ADDRESS = r"^https?://[^/?#@ ]+/?$"
_SOURCE = r"^(https?://[^/?#@ ]+/?|dns:.+|registry)$"
_NETWORK = r"^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$"
_MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
_DOCUMENT = r"^(/|file:.)"
_RATE = r"^\s*[1-9][0-9]*\s*(/|per)\s*([0-9]+\s*)?[A-Za-z]+\s*$"
_SIZE = r"^\s*[0-9]+\s*([KMGkmg]?[Ii]?[Bb])?\s*$"


def parse_rate(value: object) -> str:
    """A rate such as `100/minute`, `5 per second` or `1000/2hours`, as it was written. Raises `ValueError`."""
    try:
        rates = parse_many(str(value))
    except ValueError:
        rates = []
    if len(rates) != 1 or not rates[0].amount:
        raise ValueError("must be a rate like 100/minute, 5/second or 1000/2hours")
    return str(value)


def is_rate(text: str) -> bool:
    """Whether `text` is a rate, and no name."""
    return re.fullmatch(_RATE, text) is not None


def parse_address(value: object) -> str:
    """`http://host:port` without a path. Raises `ValueError`."""
    text = str(value).rstrip("/")
    try:
        parts = parse_url(text) if "://" in text else None
    except ValueError:  # its text would show the address, perhaps with a password
        parts = None
    if parts is None or parts.scheme not in ("http", "https") or not parts.host or parts.path or _EXTRA.search(text):
        raise ValueError("must be an address like http://127.0.0.1:8000, without a path")
    if parts.auth:
        raise ValueError("must not carry a user name or password")
    return text


def parse_source(value: object) -> str:
    """An address, `dns:name:port` or `registry`. Raises `ValueError`."""
    text = str(value)
    if text == REGISTRY:
        return text
    if text.startswith("dns:"):
        parse_dns_source(text)
        return text
    return parse_address(value)


def parse_network(value: object) -> IPNetwork:
    """`10.0.0.0/8` or `2001:db8::7`; IPv4 in IPv6 clothes (`::ffff:10.0.0.0/104`) as IPv4. Raises `ValueError`."""
    try:
        network = ipaddress.ip_network(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError("must be an address or network like 10.0.0.0/8, with no bits set behind its mask") from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


def parse_moment(value: object) -> datetime:
    """A time of RFC 3339. YAML may have read it already. Raises `ValueError`."""
    moment = value
    try:
        if isinstance(value, str) and re.fullmatch(_MOMENT, value):
            moment = datetime.fromisoformat(value.upper())
    except ValueError:
        pass
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValueError("must be a time with its zone, like 2030-01-31T22:00:00Z")
    return moment


def _document(value: str) -> str:
    if re.match(r"file:.", value) or (_PATH.fullmatch(value) and not _NOT_IN_PATH.search(value)):
        return value
    raise ValueError("must be a path at the service like /openapi.json, or a file of ours like file:shop.json")


def _version(value: str) -> str:
    if value == FIRST_VERSION:
        raise ValueError("the service itself is version 1; further ones begin with 2")
    if not re.fullmatch(VERSION, value):
        raise ValueError("must be a whole number from 2, like 2")
    return value


def _base_path(value: str) -> str:
    if not _PATH.fullmatch(value) or _NOT_IN_PATH.search(value):
        raise ValueError("must begin with a slash, like /students or /, and go out as it is")
    return value.rstrip("/")


def _prefix(value: str) -> str:
    if not _PATH.fullmatch(value) or _NOT_IN_PATH.search(value) or "//" in value or re.search(r"[%<>]", value):
        raise ValueError("must be a path like /shop or /shop/catalogue, or / for everything")
    return value.rstrip("/")


def _front(value: str) -> str:
    if not (front := check_prefix(value)):
        raise ValueError("must be more than a slash, like /v2")
    return front


def _template(value: str) -> str:
    PathTemplate.parse(value)
    return value


def _condition(value: str) -> str:
    Condition("header", "x", value)
    return value


def _field_name(value: str) -> str:
    Condition("header", value, "*")
    return value


def _unless_off(value: object) -> object:
    if value is None:
        raise ValueError("is empty; write off, or what it is to be")
    return None if value is False or value == "off" else value


def _unless_empty(value: object) -> object:
    if value is None:
        raise ValueError("is empty; write what it is to be, or leave the key out")
    return value


class _Instead:
    """For JSON Schema: what may be written instead of a value. Never null, which is refused."""

    def __init__(self, *instead: object) -> None:
        self._instead = instead

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        options = [option for option in described["anyOf"] if option != {"type": "null"}]
        if self._instead:
            options.append({"enum": list(self._instead)})
        return options[0] if len(options) == 1 else {"anyOf": options}


def _said(words: str) -> dict[str, JsonValue]:
    """What editors and `advice` say of a text that does not fit its pattern."""
    return {"patternErrorMessage": f"must be {words}"}


T = TypeVar("T")
Network = Annotated[IPNetwork, BeforeValidator(parse_network), WithJsonSchema({"type": "string", "pattern": _NETWORK})]
Moment = Annotated[datetime, BeforeValidator(parse_moment), WithJsonSchema({"type": "string", "pattern": _MOMENT})]
FilePath = Annotated[str, Field(min_length=1)]
ServerName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._:-]{1,253}$", json_schema_extra=_said("the name in a certificate, like shop.internal")
    ),
]
DocumentPath = Annotated[str, AfterValidator(_document), WithJsonSchema({"type": "string", "pattern": _DOCUMENT})]
Rate = Annotated[str, BeforeValidator(parse_rate), WithJsonSchema({"type": "string", "pattern": _RATE})]
Size = Annotated[
    int,
    BeforeValidator(
        parse_size, json_schema_input_type=Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=_SIZE)]
    ),
]
Source = Annotated[str, BeforeValidator(parse_source), WithJsonSchema({"type": "string", "pattern": _SOURCE})]
Slashed = WithJsonSchema({"type": "string", "pattern": "^/"})
BasePath = Annotated[str, AfterValidator(_base_path), Slashed]
Prefix = Annotated[str, AfterValidator(_prefix), Slashed]
Front = Annotated[str, AfterValidator(_front), Slashed]
Template = Annotated[str, AfterValidator(_template), Slashed]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderValue = Annotated[str, AfterValidator(check_header_value)]
FieldName = Annotated[str, AfterValidator(_field_name)]
Wanted = Annotated[str, AfterValidator(_condition)]
Destination = Annotated[str, AfterValidator(check_redirect)]
Version = Annotated[str, AfterValidator(_version), WithJsonSchema({"type": "string", "pattern": VERSION})]
HostPattern = Annotated[str, AfterValidator(check_host_pattern)]
Name = Annotated[
    str,
    Field(pattern=NAME, json_schema_extra=_said("a name of lower-case letters, digits and hyphens, like grade-books")),
]
Target = Annotated[
    str,
    Field(pattern=TARGET_NAME, json_schema_extra=_said("a service like products, or a version of it like products@2")),
]
Method = Annotated[
    str,
    Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$", json_schema_extra=_said("a method like GET, or * for any")),
]
RouteName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        json_schema_extra=_said("a name of up to 64 letters, digits, dots, hyphens and underscores"),
    ),
]
HashKey = Annotated[
    str,
    Field(
        pattern=r"^(user|address|header:[A-Za-z0-9-]+|cookie:[A-Za-z0-9_-]+)$",
        json_schema_extra=_said("user, address, header:NAME or cookie:NAME"),
    ),
]
Seconds = Annotated[float, Field(gt=0, le=3600)]
Percent = Annotated[float, Field(gt=0, le=100)]
Given = Annotated[T | None, BeforeValidator(_unless_empty), _Instead()]
"""What may be left out, but not be empty."""
OrOff = Annotated[T | None, BeforeValidator(_unless_off), _Instead(False, "off")]
