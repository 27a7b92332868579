"""Logs: one JSON line an event, the same shape in all processes, joined by `request_id`.

gunicorn serves a whole keep-alive connection in one greenlet and a contextvar lives as long as its greenlet, so each
request begins with `bind_request`. Nothing else is bound: structlog's own contextvars would have to be cleared, too.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from common.masking import mask

_REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_OLDER: list[Callable[[], None]] = []
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)


def new_request_id() -> str:
    """`req-` and 24 hexadecimal digits: 96 random bits."""
    return f"req-{os.urandom(12).hex()}"


def acceptable_request_id(value: str | None) -> str | None:
    """`value` when it is safe to log and to pass on, else None."""
    return value if value and _ACCEPTABLE_ID.fullmatch(value) else None


def bind_request(request_id: str) -> None:
    """Start a request: forget the one before, remember this id in every log line."""
    _REQUEST_ID.set(request_id)


def current_request_id() -> str:
    return _REQUEST_ID.get()


def configure(service: str, *, level: str = "INFO", log_format: str = "json") -> dict[str, object]:
    """Send structlog's lines, the standard library's and gunicorn's to stdout in one shape.

    Returns the `logging.config` dictionary that was applied, for gunicorn, which applies it once more over its own.
    """

    def add_service(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        if request_id := _REQUEST_ID.get():
            event.setdefault("request_id", request_id)
        return event

    shared: list[Processor] = [
        _write_first,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_service,
    ]
    renderer = _json_line if log_format == "json" else _console_line
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            mask,
            renderer,
        ],
        "foreign_pre_chain": [structlog.stdlib.add_logger_name, *shared],
    }
    config: dict[str, object] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True, "level": level},
            "urllib3": {"level": "ERROR"},  # a dead service is told by the breaker, not by each connection
            "alembic": {"level": "WARNING"},
        },
    }
    logging.config.dictConfig(config)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, mask, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
        cache_logger_on_first_use=False,
    )
    return config


def write_first(flush: Callable[[], None]) -> None:
    """Have `flush` called before any line is written, to write those that are older. It logs nothing itself."""
    _OLDER.append(flush)


def rendered(event: EventDict, log_format: str) -> bytes:
    """The line of an event that has passed all processors; its first fields are time, level and event."""
    text = _json(event) if log_format == "json" else _console_line(None, "", event).encode("utf-8", "backslashreplace")
    return text + b"\n"


def _write_first(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for flush in _OLDER:
        flush()
    return event


def _json_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    ordered = {
        "time": event.pop("time", ""),
        "level": event.pop("level", ""),
        "event": event.pop("event", ""),
        **event,
    }
    return _json(ordered).decode()


def _json(event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=str)
    except TypeError:  # half of a surrogate pair, that a caller has sent, can't be written in UTF-8
        return json.dumps(event, default=str).encode()


def _console_line(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    clock = str(event.pop("time", ""))[11:19]
    level, name = str(event.pop("level", "")), str(event.pop("event", ""))
    event.pop("service", None)
    exception = event.pop("exception", None)
    words = " ".join(f"{key}={value}" for key, value in event.items() if value not in ("", None))
    return f"{clock} {level:<7} {name} {words}" + (f"\n{exception}" if exception else "")
