"""Which servers are believed: the system's authorities, or one that somebody has looked at.

An installation makes an authority of its own at first, which no system knows. It can be fetched from the server itself
(`/ca.crt`), but then nothing says whose it is: a person compares its fingerprint with the one the installation printed.
From then on it is the only one believed for that server. There is no way to believe everybody.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from pathlib import Path

from diycloud.client.wire import Broken, Wire
from diycloud.errors import InvalidInput, Unavailable

MAX_AUTHORITY = 64 << 10
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----\s[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_WRONG_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH (x509_vfy.h)
_UNKNOWN = frozenset({2, 7, 18, 19, 20, 21, 30})
"""X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT, CERT_SIGNATURE_FAILURE, DEPTH_ZERO_SELF_SIGNED_CERT, SELF_SIGNED_CERT_IN_CHAIN,
UNABLE_TO_GET_ISSUER_CERT_LOCALLY, UNABLE_TO_VERIFY_LEAF_SIGNATURE, AKID_SKID_MISMATCH: nobody vouches, or another did."""
FETCH_S = 10.0


class Untrusted(Unavailable):
    """The server's certificate does not hold. unknown_authority: it may be good, but nothing here vouches for it."""

    def __init__(self, message: str, hint: str = "", *, unknown_authority: bool = False) -> None:
        super().__init__(message, hint)
        self.unknown_authority = unknown_authority


def context(authority: str = "") -> ssl.SSLContext:
    """Return what checks a server's certificate and name: by this authority alone (PEM), or by the system's."""
    try:
        made = ssl.create_default_context(cadata=authority or None)
    except ssl.SSLError as error:
        raise InvalidInput(f"The authority cannot be read: {error.reason}.", "It is a PEM file, like ca.crt.") from None
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def read_authority(path: str | Path) -> str:
    """Return the certificates of a PEM file. Raises InvalidInput."""
    try:
        text = Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        text = ""
    found = _CERTIFICATE.findall(text)
    if not found:
        raise InvalidInput(f"{path} has no certificate.", "It is a PEM file, like ca.crt.")
    return "\n".join(found) + "\n"


def fetch_authority(host: str, port: int) -> str:
    """Return the authority (PEM) that a server offers. Whoever is at the other end: nothing is checked, nothing is sent.

    Raises Unavailable if it offers none.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    text = ""
    with contextlib.suppress(OSError, Broken, UnicodeDecodeError):
        wire = Wire(secure(socket.create_connection((host, port), FETCH_S), blind, host), host)
        try:
            head = wire.ask("GET", "/ca.crt", {}, None)
            if head.status == 200 and int(head.headers.get("content-length", "0")) <= MAX_AUTHORITY:
                text = b"".join(wire.pieces(head)).decode("ascii")
        finally:
            wire.close()
    found = _CERTIFICATE.findall(text)
    if len(found) != 1:
        raise Unavailable(f"{host} offers no authority of its own.", "Give its authority's file: --ca FILE.")
    return str(found[0]) + "\n"


def secure(connected: socket.socket, checking: ssl.SSLContext, host: str) -> ssl.SSLSocket:
    """Begin TLS. Raises Untrusted if the certificate does not hold, OSError."""
    try:
        return checking.wrap_socket(connected, server_hostname=host)
    except BaseException as error:
        connected.close()
        if isinstance(error, ssl.SSLCertVerificationError):
            raise untrusted(host, error) from error
        raise


def fingerprint(authority: str) -> str:
    """Return the SHA-256 fingerprint of a certificate (PEM), as browsers and the installation show it."""
    import hashlib

    try:
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.strip())).hexdigest().upper()
    except ValueError:
        raise InvalidInput("The authority is no certificate.", "It is a PEM file, like ca.crt.") from None
    return ":".join(digest[i : i + 2] for i in range(0, len(digest), 2))


def untrusted(name: str, error: ssl.SSLCertVerificationError) -> Untrusted:
    """Return the error that a certificate's refusal is told with."""
    if error.verify_code in _WRONG_NAME:
        return Untrusted(
            f"The certificate of {name} is for another name.",
            "Use a name or address that it has; the server's are in its setting server.host_name.",
        )
    return Untrusted(
        f"The certificate of {name} does not hold: {error.verify_message}.",
        "`diycloud login URL` asks whether to believe the server; --ca FILE names its authority.",
        unknown_authority=error.verify_code in _UNKNOWN,
    )
