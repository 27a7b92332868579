"""Certificates for tests: an authority of their own, and what it certifies, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOUR = datetime.timedelta(hours=1)


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: str
    key: str

    def server_context(self, client_ca: str = "") -> ssl.SSLContext:
        """For a server of the test; with `client_ca` callers need a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Authority:
    """Certifies whomever a test wants. Its own certificate is the file `path`."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(self._name, self._key.public_key(), self._name)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = str(directory / f"{name}.pem")
        Path(self.path).write_bytes(_pem(made.sign(self._key, hashes.SHA256())))

    def issue(
        self, name: str = "server", names: Iterable[str] = ("127.0.0.1",), *, ends_in: datetime.timedelta = HOUR
    ) -> Pair:
        """A certificate for `names`, hosts or addresses, in the files `NAME.pem` and `NAME.key`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = _builder(subject, key.public_key(), self._name, ends_in)
        made = made.add_extension(x509.SubjectAlternativeName([_general(each) for each in names]), critical=False)
        pair = Pair(str(self._directory / f"{name}.pem"), str(self._directory / f"{name}.key"))
        Path(pair.certificate).write_bytes(_pem(made.sign(self._key, hashes.SHA256())))
        Path(pair.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return pair


def encrypt(key: str, password: bytes) -> None:
    """Put a password on the key file at `key`."""
    loaded = serialization.load_pem_private_key(Path(key).read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(password)
    Path(key).write_bytes(
        loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePublicKey, issuer: x509.Name, ends_in: datetime.timedelta = HOUR
) -> x509.CertificateBuilder:
    end = datetime.datetime.now(datetime.UTC) + ends_in
    return (
        x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
        .not_valid_before(end - 48 * HOUR)
        .not_valid_after(end)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
