"""What applications are told of a person: the claims of the ID token and of the userinfo endpoint.

sub is users.uuid, which stays whatever people are called and is never given twice.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from diycloud.auth.oidc.grants import Grant
from diycloud.users.models import Row
from diycloud.users.shown import names

ACR = ("1", "2")
"""What `acr` may say: one factor was proved, or two."""


def userinfo(row: Row, scopes: tuple[str, ...]) -> dict[str, Any]:
    """Return what the scopes tell of a user (OpenID Connect Core 1.0, 5.1 and 5.4)."""
    told: dict[str, Any] = {"sub": row.uuid}
    if "profile" in scopes:
        told |= {"preferred_username": row.username, "name": row.full_name or row.username}
    if "email" in scopes and row.email:
        told |= {"email": row.email, "email_verified": False}  # nobody wrote to it to find out
    if "groups" in scopes:
        told |= {"groups": list(names(row.groups)), "role": str(row.role), "domain": row.domain}
    return told


def id_token(issuer: str, grant: Grant, access_token: str, *, now: int, seconds: int, first: bool) -> dict[str, Any]:
    """Return the claims of an ID token (OpenID Connect Core 1.0, 2 and 3.1.3.6). first: not of a refresh (12.2: no nonce)."""
    claims: dict[str, Any] = {
        "iss": issuer,
        "sub": grant.uuid,
        "aud": grant.client,
        "iat": now,
        "exp": now + seconds,
        "auth_time": grant.signed_in_at,
        "at_hash": _half(access_token),
        "acr": acr(grant.methods),
    }
    if methods := amr(grant.methods):
        claims["amr"] = methods
    if first and grant.nonce:
        claims["nonce"] = grant.nonce
    return claims


def amr(methods: str) -> list[str]:
    """Return how it was proved who it is, in the words of RFC 8176.

    A password that a directory keeps (`pwd fed`) is one factor; a provider's word and a code of ours (`fed otp`) are two.
    """
    found = list(dict.fromkeys(methods.split()))
    factors = set(found) - {"fed"} if "pwd" in found else set(found)
    return [*found, "mfa"] if len(factors) > 1 and "mfa" not in found else found


def acr(methods: str) -> str:
    return ACR["mfa" in amr(methods)]


def _half(token: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()[:16]).rstrip(b"=").decode()
