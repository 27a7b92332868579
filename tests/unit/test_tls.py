"""TLS to instances: who is trusted, as whom we call, what the caller and the log are told; files that can't be used."""

from __future__ import annotations

import datetime
import io
import socket
import ssl
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from common.problems import Problem
from common.tls import CertificateFault, client_context, server_context, showing, trusting
from gateway.backend.backend import Backend
from gateway.backend.call import Call
from gateway.backend.countdown import Countdown
from gateway.backend.probe import probe
from gateway.body import Body
from gateway.observability.metrics import Metrics
from gateway.services import Address, Service, Sources, TLSRule
from tests.support.certificates import Authority, Pair, encrypt
from tests.support.scripted import Scripted
from tests.unit import parts

EXPIRED = datetime.timedelta(hours=-1)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "theirs")


def https(url: str, tls: TLSRule) -> Service:
    sources = Sources((Address(url),))
    return parts.service(sources=sources, tls=tls, retries=0, timeout_s=5.0, try_timeout_s=5.0)


def ask(service: Service, method: str = "GET") -> int:
    """The status of the service's answer."""
    backend = Backend(service, parts.settings(), Metrics())
    call = Call(method, "/", [], Body(io.BytesIO(), 0, is_bounded=True), Countdown(5), 5)
    try:
        return backend.send(call).status
    finally:
        for instance in backend.instances:
            instance.close()


def refusal(service: Service) -> tuple[str, str]:
    """The code that a caller is told, and the reason that the log has."""
    with capture_logs() as logs, pytest.raises(Problem) as caught:
        ask(service)
    (line,) = [line for line in logs if line["event"] == "call_failed"]
    assert caught.value.status == 502
    assert "127.0.0.1" not in caught.value.detail
    assert "certificate" not in caught.value.detail
    return caught.value.code, str(line["reason"])


def test_an_instance_that_the_services_authority_certifies_is_asked(ours: Authority) -> None:
    with Scripted(tls=ours.issue().server_context()) as server:
        assert ask(https(server.url, TLSRule(ca=ours.path))) == 200


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("another authority", "unable to get local issuer certificate"),
        ("none of the public ones", "unable to get local issuer certificate"),
        ("another host", "IP address mismatch"),
        ("another name", "Hostname mismatch"),
        ("expired", "certificate has expired"),
    ],
)
def test_who_is_not_trusted_gets_no_request(ours: Authority, theirs: Authority, case: str, reason: str) -> None:
    certified = {
        "another host": ours.issue("other", names=["127.0.0.2"]),
        "expired": ours.issue("old", ends_in=EXPIRED),
    }.get(case, ours.issue())
    rule = {
        "another authority": TLSRule(ca=theirs.path),
        "none of the public ones": TLSRule(),
        "another name": TLSRule(ca=ours.path, server_name="shop.internal"),
    }.get(case, TLSRule(ca=ours.path))
    with Scripted(tls=certified.server_context()) as server:
        heads: list[object] = []
        server.act = lambda peer: heads.append(peer.head())

        assert refusal(https(server.url, rule)) == ("SERVICE_NOT_TRUSTED", reason)

    assert heads == []


def test_the_name_that_the_file_gives_is_the_one_that_is_wanted(ours: Authority) -> None:
    with Scripted(tls=ours.issue(names=["shop.internal"]).server_context()) as server:
        assert ask(https(server.url, TLSRule(ca=ours.path, server_name="shop.internal"))) == 200


def test_an_authority_of_ones_own_is_trusted_instead_of_the_public_ones(
    ours: Authority, theirs: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", theirs.path)
    with Scripted(tls=theirs.issue().server_context()) as server:
        assert refusal(https(server.url, TLSRule(ca=ours.path)))[0] == "SERVICE_NOT_TRUSTED"


def test_our_certificate_is_shown_to_who_wants_one(ours: Authority) -> None:
    us = ours.issue("us")
    with Scripted(tls=ours.issue().server_context(client_ca=ours.path)) as server:
        assert ask(https(server.url, TLSRule(ours.path, us.certificate, us.key))) == 200


def test_who_wants_our_certificate_and_gets_none_is_a_502(ours: Authority) -> None:
    with Scripted(tls=ours.issue().server_context(client_ca=ours.path)) as server, pytest.raises(Problem) as caught:
        ask(https(server.url, TLSRule(ours.path)))

    assert caught.value.status == 502
    assert "127.0.0.1" not in caught.value.detail


def test_an_old_version_of_tls_is_refused(ours: Authority) -> None:
    context = ours.issue().server_context()
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Scripted(tls=context) as server:
        assert refusal(https(server.url, TLSRule(ca=ours.path)))[0] == "SERVICE_NOT_TRUSTED"


def test_health_checks_trust_whom_requests_trust(ours: Authority, theirs: Authority) -> None:
    with Scripted(tls=ours.issue().server_context()) as server:
        found = []
        for ca in (ours.path, theirs.path):
            backend = Backend(https(server.url, TLSRule(ca=ca)), parts.settings(), Metrics())
            found.append(probe(backend.instances[0], "/", 5.0))
            backend.instances[0].close()

    assert [finding.is_well for finding in found] == [True, False]
    assert found[1].reason == "SSLCertVerificationError"


def test_an_instance_is_not_kept_when_whom_it_trusts_changes(ours: Authority, theirs: Authority) -> None:
    before = Backend(https("https://127.0.0.1:1", TLSRule(ours.path)), parts.settings(), Metrics())
    after = Backend(https("https://127.0.0.1:1", TLSRule(theirs.path)), parts.settings(), Metrics(), before=before)

    assert before.instances[0] is not after.instances[0]


def test_files_that_are_gone_when_they_are_wanted_are_told_in_the_log_only(ours: Authority, tmp_path: Path) -> None:
    with Scripted(tls=ours.issue().server_context()) as server:
        told = refusal(https(server.url, TLSRule(ca=str(tmp_path / "nowhere.pem"))))

    assert told == ("SERVICE_NOT_TRUSTED", "our ca: there is no such file")


def spoilt(pair: Pair, ca: str, what: str, directory: Path) -> tuple[str, str, str]:
    """Certificate, key and CA, one of which can't be used."""
    certificate, key = pair
    match what:
        case "certificate is missing":
            certificate = str(directory / "nowhere.pem")
        case "certificate is no PEM":
            Path(certificate).write_text("certificate\n")
        case "key is missing":
            key = str(directory / "nowhere.key")
        case "key is no PEM":
            Path(key).write_text("key\n")
        case "key is another's":
            key = Authority(directory, "other").issue("other").key
        case "key is encrypted":
            encrypt(key, b"hunter2")
        case "ca is missing":
            ca = str(directory / "nowhere.pem")
        case "ca is no PEM":
            Path(ca).write_text("authority\n")
        case "ca is a folder":
            ca = str(directory)
        case _:
            raise AssertionError(what)
    return certificate, key, ca


@pytest.mark.parametrize("side", ["server", "client"])
@pytest.mark.parametrize(
    ("what", "part", "words"),
    [
        ("certificate is missing", "certificate", "there is no such file"),
        ("certificate is no PEM", "certificate", "holds no certificate in PEM form"),
        ("key is missing", "key", "there is no such file"),
        ("key is no PEM", "key", "holds no private key in PEM form"),
        ("key is another's", "key", "is not the key of the certificate"),
        ("key is encrypted", "key", "is encrypted; write it without a password"),
        ("ca is missing", "ca", "there is no such file"),
        ("ca is no PEM", "ca", "holds no certificate in PEM form"),
        ("ca is a folder", "ca", "can't be read (Is a directory)"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    ours: Authority, tmp_path: Path, side: str, what: str, part: str, words: str
) -> None:
    certificate, key, ca = spoilt(ours.issue(), ours.path, what, tmp_path)

    def make() -> ssl.SSLContext:
        return server_context(certificate, key, ca) if side == "server" else client_context(ca, certificate, key)

    with pytest.raises(CertificateFault) as caught:
        make()

    assert (caught.value.part, caught.value.words) == (part, words)


def serial(context: ssl.SSLContext, ca: str) -> int:
    """Of the certificate that a server with `context` shows."""
    with Scripted(tls=context) as server, socket.create_connection(("127.0.0.1", server.port)) as connection:
        caller = ssl.create_default_context(cafile=ca)
        with caller.wrap_socket(connection, server_hostname="127.0.0.1") as client:
            shown = client.getpeercert()
    return int(str((shown or {})["serialNumber"]), 16)


def test_a_renewed_certificate_is_shown_to_the_next_caller(ours: Authority) -> None:
    tls = showing(*ours.issue())
    before = serial(tls.context(), ours.path)

    ours.issue()

    assert serial(tls.context(), ours.path) != before


def test_a_context_is_not_made_again_while_its_files_stay(ours: Authority) -> None:
    tls = showing(*ours.issue())

    assert tls.context() is tls.context()


def test_half_a_renewal_changes_nothing_and_is_told_once(ours: Authority) -> None:
    pair = ours.issue()
    tls = showing(*pair)
    known, key = tls.context(), Path(pair.key).read_bytes()
    ours.issue()
    renewed = Path(pair.key).read_bytes()
    Path(pair.key).write_bytes(key)

    with capture_logs() as logs:
        assert tls.context() is known
        assert tls.context() is known
    Path(pair.key).write_bytes(renewed)

    assert [line["event"] for line in logs] == ["certificate_not_renewed"]
    assert tls.context() is not known


def test_a_renewed_authority_is_trusted_without_a_reload(ours: Authority, theirs: Authority) -> None:
    tls = trusting(ours.path)
    before = tls.context().get_ca_certs()

    Path(ours.path).write_bytes(Path(theirs.path).read_bytes())

    assert tls.context().get_ca_certs() != before


def test_another_instance_is_asked_for_any_method_when_one_is_not_trusted(ours: Authority, theirs: Authority) -> None:
    with (
        Scripted(tls=theirs.issue("stranger").server_context()) as stranger,
        Scripted(tls=ours.issue().server_context()) as server,
    ):
        addresses = (Address(stranger.url), Address(server.url))
        service = parts.service(sources=Sources(addresses), tls=TLSRule(ours.path), timeout_s=5.0, try_timeout_s=5.0)

        assert [ask(service, "POST") for _ in range(2)] == [200, 200]
