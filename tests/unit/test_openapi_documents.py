"""Services' OpenAPI documents in a worker: when they are fetched, and what goes on while they can't be had."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from structlog.testing import capture_logs

from gateway.backend.backend import Backend
from gateway.openapi import documents
from gateway.openapi.documents import DOUBT_S, MOST_REPORTED, REFRESH_S, REPORT_EVERY_S, Documents, Unknown
from gateway.runtime import Runtime
from gateway.services import ServicesError
from tests.support.stub import StubService
from tests.unit import parts

ENTRIES = {"shop": {"url": "http://127.0.0.1:1", "validate": "report"}, "other": {"url": "http://127.0.0.1:1"}}


def text(*paths: str) -> bytes:
    return orjson.dumps({"openapi": "3.1.0", "paths": {path: {"get": {}} for path in paths}})


class Service:
    """Gives `text`, or raises it if it is an error; counts how often it was asked."""

    def __init__(self) -> None:
        self.text: bytes | Exception = text("/one")
        self.asked: list[str] = []
        self.now = 1000.0

    def __call__(self, backend: Backend) -> bytes:
        self.asked.append(backend.service.key)
        if isinstance(self.text, Exception):
            raise self.text
        return self.text


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return parts.runtime(tmp_path_factory.mktemp("gateway"), ENTRIES)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def known(runtime: Runtime, service: Service) -> Documents:
    return Documents(runtime.metrics, service, lambda: service.now)


def test_only_services_that_validate_are_asked(runtime: Runtime, service: Service, known: Documents) -> None:
    known.round(runtime.table)

    assert service.asked == ["shop"]
    assert known.contract("shop") is not None
    assert known.contract("other") is None


def test_a_service_is_asked_again_after_a_while_and_its_newer_document_counts(
    runtime: Runtime, service: Service, known: Documents
) -> None:
    known.round(runtime.table)
    first = known.contract("shop")
    known.round(runtime.table)
    service.now += 1.2 * REFRESH_S
    known.round(runtime.table)

    assert (len(service.asked), known.contract("shop")) == (2, first)

    service.text = text("/two")
    service.now += 1.2 * REFRESH_S
    known.round(runtime.table)

    found = known.contract("shop")
    assert found is not None
    assert found.find("GET", "/two") is not None


def test_doubt_brings_the_next_look_forward_but_not_without_end(
    runtime: Runtime, service: Service, known: Documents
) -> None:
    known.round(runtime.table)
    known.doubt("shop")
    known.round(runtime.table)
    assert len(service.asked) == 1

    service.now += DOUBT_S
    for _ in range(5):
        known.doubt("shop")
        known.round(runtime.table)

    assert len(service.asked) == 2
    known.doubt("nobody")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (Unknown("status 404"), "status 404"),
        (b"<html>", "is not JSON"),
        (b'{"swagger": "2.0"}', "is no OpenAPI document of version 3"),
    ],
)
def test_the_last_good_document_goes_on_and_one_line_says_why(
    runtime: Runtime, service: Service, known: Documents, failure: bytes | Exception, reason: str
) -> None:
    known.round(runtime.table)
    before = known.contract("shop")
    service.text = failure

    with capture_logs() as logs:
        for _ in range(4):
            service.now += 2 * REFRESH_S
            known.round(runtime.table)

    told = [(line["event"], line["log_level"], line["reason"], line["goes_on"]) for line in logs]
    assert told == [("openapi_unknown", "warning", reason, True)]
    assert known.contract("shop") is before


def test_a_document_that_never_came_is_asked_for_more_often_at_first(
    runtime: Runtime, service: Service, known: Documents
) -> None:
    service.text = Unknown("status 503")

    with capture_logs() as logs:
        for _ in range(600):
            known.round(runtime.table)
            service.now += 1

    assert 12 < len(service.asked) < 25
    assert len(logs) == 1
    assert b'gateway_openapi_known{service="shop"} 0.0' in runtime.metrics.page()


def test_a_service_that_validates_no_more_is_forgotten(runtime: Runtime, known: Documents, tmp_path: Path) -> None:
    known.round(runtime.table)

    known.round(parts.runtime(tmp_path, {"shop": {"url": "http://127.0.0.1:1"}}).table)

    assert known.contract("shop") is None


def test_a_fault_of_ours_ends_nothing(runtime: Runtime, service: Service, known: Documents) -> None:
    service.text = RuntimeError("nobody foresaw it")

    with capture_logs() as logs:
        known.round(runtime.table)

    assert [line["event"] for line in logs] == ["openapi_stuck"]


def test_a_field_is_reported_once_a_minute_and_memory_is_bounded(service: Service, known: Documents) -> None:
    assert known.may_report("shop./", "name")
    assert not known.may_report("shop./", "name")
    assert known.may_report("shop./other", "name")
    assert known.may_report("shop./", "price")
    service.now += REPORT_EVERY_S
    assert known.may_report("shop./", "name")

    for number in range(3 * MOST_REPORTED):
        known.may_report("shop./", str(number))
    assert len(known._reported) <= MOST_REPORTED  # pyright: ignore[reportPrivateUsage] - what is bounded


def backend_of(directory: Path, **entry: object) -> Backend:
    return parts.runtime(directory, {"shop": entry}).table.backends["shop"]


@pytest.mark.parametrize("path", ["/openapi.json", "/docs/v1.json"])
def test_the_service_is_asked_where_the_file_says(tmp_path: Path, path: str) -> None:
    with StubService() as stub:
        stub.json[path] = {"openapi": "3.1.0"}

        assert orjson.loads(documents.read(backend_of(tmp_path, url=stub.url, openapi=path))) == {"openapi": "3.1.0"}


def test_an_answer_that_is_no_document_is_none(tmp_path: Path) -> None:
    with StubService() as stub:
        stub.failing.add("/openapi.json")
        backend = backend_of(tmp_path, url=stub.url, retries=0)

        with pytest.raises(Unknown, match="status 503"):
            documents.read(backend)


def test_who_has_no_document_is_none_the_worse_for_being_asked(tmp_path: Path) -> None:
    with StubService() as stub:
        stub.failing.add("/openapi.json")
        backend = backend_of(tmp_path, url=stub.url, breaker={"failures": 1}, ejection={"failures": 1})

        for _ in range(3):
            with pytest.raises(Unknown):
                documents.read(backend)

        assert backend.instances[0].admits
        assert backend.would_pick("") is backend.instances[0]


def test_nobody_listens_where_the_document_should_be(tmp_path: Path) -> None:
    backend = backend_of(tmp_path, url="http://127.0.0.1:1")

    with pytest.raises(Unknown, match="ConnectionRefusedError"):
        documents.read(backend)


def test_a_document_without_end_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", 1000)
    with StubService() as stub:
        stub.json["/openapi.json"] = "x" * 200_000
        backend = backend_of(tmp_path, url=stub.url)

        with pytest.raises(Unknown, match="longer than 1000 bytes"):
            documents.read(backend)


def test_a_file_beside_the_services_file_will_do(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_bytes(text("/one"))

    assert documents.read(backend_of(tmp_path, url="http://127.0.0.1:1", openapi="file:shop.json")) == text("/one")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "openapi: can't be read (No such file or directory)"),
        ("{", "openapi: is not JSON"),
        ("{}", "openapi: is no OpenAPI document of version 3"),
    ],
)
def test_a_file_that_cannot_be_used_is_a_fault_of_the_services_file(
    tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "shop.json").write_text(content)

    with pytest.raises(ServicesError) as caught:
        backend_of(tmp_path, url="http://127.0.0.1:1", openapi="file:shop.json")

    assert [problem.partition("services.shop.")[2] for problem in caught.value.problems] == [words]
