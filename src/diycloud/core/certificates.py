"""The platform's own certificate authority and the server's certificate.

Self-signed at once, so that the portal speaks HTTPS from its first second; people who import ca.crt see no warning.
The server's certificate is made again when it nears its end, when the host's names change, or when it does not fit
its key or authority (an installation that was killed between two files).
Sources: RFC 5280; RFC 6125 (names are subject alternative names); 825 days is the most that Apple's systems accept.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from diycloud.core.names import host_name, is_address
from diycloud.errors import InvalidInput
from diycloud.system import System

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397
RENEW_DAYS = 30
_CLOCK_SKEW = timedelta(hours=1)


class Files(NamedTuple):
    """Where the four files are. Keys are for root only."""

    folder: Path

    @property
    def authority(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def authority_key(self) -> Path:
        return self.folder / "ca.key"

    @property
    def server(self) -> Path:
        return self.folder / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.folder / "server.key"


class Pair(NamedTuple):
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_certificates(system: System, folder: Path, names: Iterable[str], now: datetime) -> list[str]:
    """Make the authority and a server certificate for these names and addresses exist. The folder exists.

    Returns which were made: `authority`, `server`. Raises InvalidInput for a name that no certificate can hold.
    """
    files = Files(folder)
    subjects = alternative_names(names)
    made = []
    authority = _read_pair(system, files.authority, files.authority_key)
    if authority is None or not _is_current(authority.certificate, now):
        authority = make_authority(now)
        _write_pair(system, authority, files.authority, files.authority_key)
        made.append("authority")
    server = _read_pair(system, files.server, files.server_key)
    if server is None or not _serves(server.certificate, authority.certificate, subjects, now):
        _write_pair(system, make_server(authority, subjects, now), files.server, files.server_key)
        made.append("server")
    return made


def read_expiry(system: System, folder: Path) -> datetime | None:
    """Return until when the server's certificate holds, None if there is none that can be read."""
    pair = _read_pair(system, Files(folder).server, Files(folder).server_key)
    return pair.certificate.not_valid_after_utc if pair else None


def fingerprint(system: System, folder: Path) -> str:
    """Return the SHA-256 fingerprint of the authority, as browsers show it; empty if there is none."""
    text = system.read(Files(folder).authority)
    if not text:
        return ""
    return x509.load_pem_x509_certificate(text.encode()).fingerprint(hashes.SHA256()).hex(":").upper()


def alternative_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """Return subject alternative names, each once, in order. Raises InvalidInput for one that is none."""
    found = [_general_name(host_name(name)) for name in names]
    if not found:
        raise InvalidInput("A certificate needs at least one name.")
    return list(dict.fromkeys(found))


def _general_name(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_address(name) else x509.DNSName(name)


def make_authority(now: datetime) -> Pair:
    """Make an authority that may sign servers' certificates and nothing below it."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The name carries the key's digest: authorities of two installations in one browser must not be taken for one another.
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest.hex()[:8]
    name = _name(f"DIY Cloud authority {digest}")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    builder = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


def make_server(authority: Pair, subjects: list[x509.GeneralName], now: datetime) -> Pair:
    """Make a server's certificate for these names, signed by the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    first = str(subjects[0].value)
    builder = (
        _builder(_name(first[:64]), authority.certificate.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(subjects), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
    )
    return Pair(builder.sign(authority.key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _is_current(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - timedelta(days=RENEW_DAYS)


def _serves(
    server: x509.Certificate, authority: x509.Certificate, subjects: list[x509.GeneralName], now: datetime
) -> bool:
    try:
        server.verify_directly_issued_by(authority)
        present = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    return _is_current(server, now) and list(present) == subjects


def _read_pair(system: System, certificate: Path, key: Path) -> Pair | None:
    """Read a certificate with its key; None if either is missing, damaged, or they do not belong together."""
    texts = system.read(certificate), system.read(key)
    if texts[0] is None or texts[1] is None:
        return None
    try:
        found = x509.load_pem_x509_certificate(texts[0].encode())
        private = serialization.load_pem_private_key(texts[1].encode(), password=None)
    except (ValueError, TypeError):
        return None
    if not isinstance(private, ec.EllipticCurvePrivateKey) or found.public_key() != private.public_key():
        return None
    return Pair(found, private)


def _write_pair(system: System, pair: Pair, certificate: Path, key: Path) -> None:
    private = pair.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    system.write(key, private.decode(), mode=0o600)
    system.write(certificate, pair.certificate.public_bytes(serialization.Encoding.PEM).decode())
