"""An OpenID Connect provider as the client sees it: authorization code with PKCE, state and nonce.

Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 6749, RFC 7636, RFC 9207 (whose answer it is), RFC 9700 (best current
practice).
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

import httpx
import structlog

from diycloud.auth.outside import id_token
from diycloud.auth.outside.id_token import Wrong
from diycloud.auth.outside.person import Person
from diycloud.auth.outside.secret_file import read_secret
from diycloud.auth.signin import FEDERATED, MFA
from diycloud.config_sign_in import ProviderSettings, is_loopback
from diycloud.errors import Unauthenticated, Unavailable

log = structlog.get_logger()
MAX_ANSWER = 256 << 10
KEEP_S = 3600
"""How long discovery and keys are kept."""
LEAST_KEYS_S = 30
"""Between two looks for a key that is not known: tokens with invented ones must not make us ask without end."""
AT_ONCE = 16
SECOND_FACTORS = frozenset({"mfa", "otp", "hwk", "swk", "sc", "fpt", "face", "iris", "retina", "vbm"})
"""Methods (RFC 8176) that are, or contain, something beside a password."""


class Pending(NamedTuple):
    """What must be kept between leaving for the provider and coming back."""

    state: str
    nonce: str
    verifier: str


class Endpoints(NamedTuple):
    """What discovery tells. post_secret: the client's secret goes in the form, not in a header."""

    authorization: str
    token: str
    keys: str
    userinfo: str
    post_secret: bool
    says_who: bool
    """Whether every answer must say whose it is (RFC 9207)."""


class Provider:
    """One provider. Raises Unavailable if it does not answer, Unauthenticated for an answer that does not hold."""

    def __init__(self, settings: ProviderSettings) -> None:
        self.settings = settings
        self._client: httpx.AsyncClient | None = None
        self._endpoints: tuple[float, Endpoints] | None = None
        self._keys: tuple[float, list[Mapping[str, Any]]] | None = None
        self._asking = asyncio.Lock()
        self._free = AT_ONCE
        self.problem = ""
        """Why it did not answer the last time: for administrators."""

    @property
    def label(self) -> str:
        return self.settings.label or self.settings.name

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def start(self, redirect_uri: str, *, again: bool = False) -> tuple[str, Pending]:
        """Return where to send somebody, and what to keep until they are back. again: they must prove anew who they are."""
        endpoints = await self._discover()
        pending = Pending(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self.settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(self.settings.scopes),
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            **({"prompt": "login", "max_age": "0"} if again else {}),
        }
        return f"{endpoints.authorization}{'&' if '?' in endpoints.authorization else '?'}{urlencode(asked)}", pending

    async def finish(
        self, answer: Mapping[str, str], pending: Pending, redirect_uri: str, *, again: bool = False
    ) -> Person:
        """Return who came back. answer: the query they came with; again: as at the start."""
        if self._free <= 0:
            raise Unavailable("Too many sign-ins at once.", "Try again in a few seconds.")
        self._free -= 1
        try:
            return await self._finish(answer, pending, redirect_uri, again=again)
        except Wrong as error:
            log.warning("outside sign-in refused", provider=self.settings.name, reason=str(error)[:300])
            raise self._refused() from error
        finally:
            self._free += 1

    async def _finish(self, answer: Mapping[str, str], pending: Pending, redirect_uri: str, *, again: bool) -> Person:
        endpoints = await self._discover()
        self._check_answer(answer, pending, endpoints)
        tokens = await self._redeem(endpoints, answer["code"], pending.verifier, redirect_uri)
        access = str(tokens.get("access_token", ""))
        expected = id_token.Expected(self.settings.issuer, self.settings.client_id, pending.nonce, access)
        claims = await self._verified(str(tokens.get("id_token", "")), expected, endpoints)
        if again and not _just_now(claims.get("auth_time")):
            raise Wrong("signed in there too long ago")
        if endpoints.userinfo and access and self._lacks(claims):
            told = await self._userinfo(endpoints.userinfo, access)
            if told.get("sub") != claims["sub"]:
                raise Wrong("userinfo is about somebody else")
            email = self.settings.email_claim
            if email in claims and told.get(email) != claims[email]:
                told = {name: value for name, value in told.items() if name != "email_verified"}  # of another address
            claims = {**told, **claims}
        return self._person(claims)

    def _check_answer(self, answer: Mapping[str, str], pending: Pending, endpoints: Endpoints) -> None:
        if not hmac.compare_digest(answer.get("state", "").encode(), pending.state.encode()):
            raise Wrong("state")
        issuer = answer.get("iss")
        if issuer is None and endpoints.says_who:
            raise Wrong("an answer that does not say whose it is")
        if issuer is not None and issuer != self.settings.issuer:
            raise Wrong("the answer of another provider")
        if error := answer.get("error"):
            log.info("provider refused", provider=self.settings.name, error=error[:100])
            if error == "access_denied":
                raise Unauthenticated(f"{self.label} did not let you in, or you stopped there.", "Try again.")
            raise Wrong(f"the provider's error {error[:100]}")
        if not answer.get("code"):
            raise Wrong("no code")

    async def _redeem(self, endpoints: Endpoints, code: str, verifier: str, redirect_uri: str) -> Mapping[str, Any]:
        settings = self.settings
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        secret = read_secret(settings.client_secret_file) if settings.client_secret_file else ""
        if secret and not endpoints.post_secret:  # RFC 6749, 2.3.1: each part form-encoded before
            pair = f"{quote(settings.client_id, safe='')}:{quote(secret, safe='')}"
            headers["authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form["client_id"] = settings.client_id
            form |= {"client_secret": secret} if secret else {}
        status, found = await self._ask("POST", endpoints.token, data=form, headers=headers)
        if status != 200 or str(found.get("token_type", "")).lower() != "bearer" or not found.get("id_token"):
            raise Wrong(f"the code was not taken: {status} {str(found.get('error', ''))[:100]}")
        return found

    async def _verified(self, token: str, expected: id_token.Expected, endpoints: Endpoints) -> dict[str, Any]:
        """Return a token's claims, with new keys if none of the known ones fits."""
        try:
            return id_token.verify(token, await self._known_keys(endpoints), expected)
        except id_token.UnknownKey:
            return id_token.verify(token, await self._known_keys(endpoints, older_s=LEAST_KEYS_S), expected)

    async def _known_keys(self, endpoints: Endpoints, *, older_s: float = KEEP_S) -> list[Mapping[str, Any]]:
        async with self._asking:
            if self._keys is None or time.monotonic() - self._keys[0] > older_s:
                status, found = await self._ask("GET", endpoints.keys)
                keys = found.get("keys")
                if status != 200 or not isinstance(keys, list):
                    raise self._away(f"its keys: status {status}")
                self._keys = (time.monotonic(), [key for key in keys[:50] if isinstance(key, dict)])
            return self._keys[1]

    async def _discover(self) -> Endpoints:
        """Return the provider's endpoints, kept for an hour."""
        if self._endpoints is None or time.monotonic() - self._endpoints[0] > KEEP_S:
            url = f"{self.settings.issuer.rstrip('/')}/.well-known/openid-configuration"
            status, found = await self._ask("GET", url)
            if status != 200:
                raise self._away(f"{url}: status {status}")
            self._endpoints = (time.monotonic(), self._read(found))
        return self._endpoints[1]

    def _read(self, found: Mapping[str, Any]) -> Endpoints:
        if found.get("issuer") != self.settings.issuer:
            raise self._away(f"it calls itself {str(found.get('issuer'))[:200]}, not {self.settings.issuer}")
        ways = found.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return Endpoints(
            self._url(found, "authorization_endpoint"),
            self._url(found, "token_endpoint"),
            self._url(found, "jwks_uri"),
            self._url(found, "userinfo_endpoint") if found.get("userinfo_endpoint") else "",
            post_secret=isinstance(ways, list) and "client_secret_basic" not in ways,
            says_who=found.get("authorization_response_iss_parameter_supported") is True,
        )

    def _url(self, found: Mapping[str, Any], name: str) -> str:
        url = found.get(name)
        parts = urlsplit(url if isinstance(url, str) else "")
        plain = parts.scheme == "http" and (self.settings.insecure or is_loopback(parts))
        if not isinstance(url, str) or not parts.hostname or not (plain or parts.scheme == "https"):
            raise self._away(f"its {name} is no address with https: {str(url)[:200]}")
        return url

    async def _userinfo(self, url: str, access_token: str) -> Mapping[str, Any]:
        status, found = await self._ask("GET", url, headers={"authorization": f"Bearer {access_token}"})
        if status != 200:
            raise Wrong(f"userinfo: status {status}")
        return found

    async def _ask(self, method: str, url: str, **more: Any) -> tuple[int, Mapping[str, Any]]:
        """Return the status of an answer and its JSON object. No redirect is followed, none too long is read."""
        if self._client is None:
            context = ssl.create_default_context(cafile=self.settings.ca_file or None)
            limits = httpx.Limits(max_connections=AT_ONCE)
            self._client = httpx.AsyncClient(
                verify=context, timeout=self.settings.timeout_s, limits=limits, trust_env=False, follow_redirects=False
            )
        headers = {"accept": "application/json", **more.pop("headers", {})}
        try:
            async with (
                asyncio.timeout(3 * self.settings.timeout_s),
                self._client.stream(method, url, headers=headers, **more) as response,
            ):
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > MAX_ANSWER:
                        raise self._away(f"{url}: an answer of over {MAX_ANSWER >> 10} KiB")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError) as error:
            raise self._away(f"{url}: {type(error).__name__} {error}") from error
        try:
            found = json.loads(body)
        except ValueError:
            found = {}
        return response.status_code, found if isinstance(found, dict) else {}

    def _lacks(self, claims: Mapping[str, Any]) -> bool:
        settings = self.settings
        wanted = [settings.username_claim, settings.email_claim, settings.name_claim]
        if settings.groups or settings.roles or settings.domains or settings.only:
            wanted.append(settings.groups_claim)
        return any(name not in claims for name in wanted)

    def _person(self, claims: Mapping[str, Any]) -> Person:
        settings = self.settings
        groups = claims.get(settings.groups_claim)
        names = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        return Person(
            settings.name,
            claims["sub"],
            _text(claims.get(settings.username_claim)),
            _text(claims.get(settings.email_claim)),
            settings.trust_email or claims.get("email_verified") is True,
            _text(claims.get(settings.name_claim)),
            frozenset(name for name in names[:1000] if isinstance(name, str)),
            (FEDERATED, MFA) if settings.trust_mfa and self._showed_more(claims) else (FEDERATED,),
        )

    def _showed_more(self, claims: Mapping[str, Any]) -> bool:
        """Tell whether the provider says that it asked for a second factor."""
        methods = claims.get("amr")
        if isinstance(methods, list) and SECOND_FACTORS.intersection(m for m in methods if isinstance(m, str)):
            return True
        return claims.get("acr") in self.settings.mfa_acr

    async def check(self) -> str:
        """Return how the provider answers, in words. Raises Unavailable with what is wrong."""
        try:
            keys = await self._known_keys(await self._discover())
        except Unavailable as error:
            raise Unavailable(f"{self.settings.issuer}: {self.problem}.", "See sign_in.providers.") from error
        usable = sum(key.get("kty") in id_token.ALGORITHMS.values() for key in keys)
        if not usable:
            raise Unavailable(f"{self.settings.issuer} shows no key that could sign an ID token.")
        if self.settings.client_secret_file:
            read_secret(self.settings.client_secret_file)
        return f"{self.settings.issuer} answers, with {usable} keys"

    def _refused(self) -> Unauthenticated:
        return Unauthenticated(
            f"Signing in with {self.label} did not work.", "Try again; an administrator finds why in the log."
        )

    def _away(self, reason: str) -> Unavailable:
        log.warning("provider does not answer", provider=self.settings.name, reason=reason[:300])
        return Unavailable(
            f"{self.label} does not answer as it should.", f"Try again in a few minutes. ({reason[:200]})"
        )


def _text(value: object) -> str:
    return "".join(c for c in value if c.isprintable())[:200].strip() if isinstance(value, str) else ""


def _just_now(value: object) -> bool:
    return isinstance(value, int | float) and abs(time.time() - value) < id_token.MAX_AGE_S
