"""Checking ID tokens: who signed them, for whom, when, and for which sign-in (OpenID Connect Core 1.0, 3.1.3.7).

The algorithm is taken from a list of ours with the kind of key that each needs, so that neither `none` nor a public key used
as a shared secret passes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

ALGORITHMS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    "EdDSA": "OKP",
}
"""Signature algorithm → type of its key (RFC 7518, 3.1; RFC 8037). Shared secrets and `none` are not among them."""
_KEYS: dict[str, Any] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
LEAST_RSA_BITS = 2048
MAX_TOKEN = 16 << 10
SKEW_S = 60
MAX_AGE_S = 600
"""Since it was issued: it is taken from the provider within seconds."""


class Wrong(Exception):
    """A token, or an answer, that does not hold; the reason is for the log."""


class UnknownKey(Wrong):
    """No key of the provider's that is known here can have signed it: it may have new ones."""


class Expected(NamedTuple):
    """What a token must be of. access_token: the one that came with it."""

    issuer: str
    client_id: str
    nonce: str
    access_token: str


def header_of(token: str) -> Mapping[str, Any]:
    """Return a token's header, as yet unproved. Raises Wrong."""
    if len(token) > MAX_TOKEN or token.count(".") != 2:
        raise Wrong("no token of three parts")
    part = token.partition(".")[0]
    try:
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except ValueError:
        raise Wrong("a header that cannot be read") from None
    if not isinstance(found, dict):
        raise Wrong("a header that is no object")
    return found


def pick_key(header: Mapping[str, Any], keys: Sequence[Mapping[str, Any]]) -> Any:
    """Return the one key that a header names. Raises Wrong for an algorithm that is none of ours, UnknownKey."""
    algorithm, kid = header.get("alg"), header.get("kid")
    kind = ALGORITHMS.get(algorithm) if isinstance(algorithm, str) else None
    if kind is None:
        raise Wrong(f"algorithm {str(algorithm)[:20]!r}")
    fitting = [
        key
        for key in keys
        if key.get("kty") == kind and key.get("use", "sig") == "sig" and key.get("alg", algorithm) == algorithm
    ]
    if kid is not None:
        fitting = [key for key in fitting if key.get("kid") == kid]
    if len(fitting) != 1:
        raise UnknownKey(f"{len(fitting)} keys fit {algorithm} and kid {str(kid)[:40]!r}")
    try:
        found = _KEYS[kind].import_key({k: v for k, v in fitting[0].items() if k not in ("key_ops", "x5c", "d")})
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise Wrong(f"a key that cannot be read: {type(error).__name__}") from error
    if kind == "RSA" and found.public_key.key_size < LEAST_RSA_BITS:
        raise Wrong(f"an RSA key of under {LEAST_RSA_BITS} bits")
    return found


def verify(
    token: str, keys: Sequence[Mapping[str, Any]], expected: Expected, *, now: float | None = None
) -> dict[str, Any]:
    """Return the claims of a token that holds. Raises Wrong, UnknownKey. now: Unix seconds."""
    header = header_of(token)
    key = pick_key(header, keys)
    try:
        claims = jwt.decode(token, key, algorithms=[header["alg"]]).claims
    except (JoseError, ValueError, TypeError) as error:
        raise Wrong(f"signature: {type(error).__name__}") from error
    check_claims(claims, expected, now=time.time() if now is None else now)
    check_at_hash(claims, header["alg"], expected.access_token)
    return dict(claims)


def check_claims(claims: Mapping[str, Any], expected: Expected, *, now: float) -> None:
    """Raise Wrong for claims of another provider, application, time or sign-in."""
    if claims.get("iss") != expected.issuer:
        raise Wrong("issuer")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or expected.client_id not in audiences:
        raise Wrong("audience")
    party = claims.get("azp")
    if party is None and len(audiences) > 1:
        raise Wrong("several audiences and no authorized party")
    if party is not None and party != expected.client_id:
        raise Wrong("authorized party")
    until, since = claims.get("exp"), claims.get("iat")
    if not _is_time(until) or now >= until + SKEW_S:
        raise Wrong("expired")
    if not _is_time(since) or since > now + SKEW_S or since < now - MAX_AGE_S:
        raise Wrong("issued at another time")
    if _is_time(begins := claims.get("nbf")) and begins > now + SKEW_S:
        raise Wrong("not valid yet")
    nonce = claims.get("nonce")
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode()):
        raise Wrong("nonce")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
        raise Wrong("subject")


def check_at_hash(claims: Mapping[str, Any], algorithm: str, access_token: str) -> None:
    """Raise Wrong if a token is of another access token than the one beside it (3.1.3.6)."""
    given = claims.get("at_hash")
    if given is None:
        return
    name = "sha512" if algorithm == "EdDSA" else f"sha{algorithm[2:]}"
    digest = hashlib.new(name, access_token.encode()).digest()
    half = base64.urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), half):
        raise Wrong("at_hash")


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1 << 53
