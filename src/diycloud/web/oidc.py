"""The provider's endpoints that programs talk to: discovery, keys, token, userinfo, revocation, introspection.

They carry their own credentials (a client's secret, a token), never the portal's cookie, so nothing here needs protection
against forged forms, and no other origin is let in by CORS but to what is public. Answers are never stored. What people
see of the provider (authorization, consent, signing out): oidc_pages.py.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import structlog
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from diycloud.actions import audit
from diycloud.actions.services import Services
from diycloud.auth.oidc import claims, clients, grants
from diycloud.auth.oidc.clients import Client
from diycloud.auth.oidc.grants import Grant, Issued, Refused, Rules
from diycloud.auth.oidc.keys import ALGORITHM, Keys
from diycloud.auth.oidc.models import SCOPES
from diycloud.auth.oidc.requests import Parameters
from diycloud.auth.oidc.service import endpoints
from diycloud.auth.signin import stranger
from diycloud.errors import DiyCloudError, TooManyRequests
from diycloud.users import repository
from diycloud.web import identity
from diycloud.web.answers import Answer, encode
from diycloud.web.bodies import read_body
from diycloud.web.oidc_pages import NO_REFERRER
from diycloud.web.problems import HttpError
from diycloud.web.ratelimit import Limits, Quota

log = structlog.get_logger()
MAX_FORM = 16 << 10
MAX_FIELDS = 40
FORM = "application/x-www-form-urlencoded"
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PRIVATE = [(b"cache-control", b"no-store"), (b"pragma", b"no-cache"), (b"x-content-type-options", b"nosniff")]
_PUBLIC = [
    (b"cache-control", b"public, max-age=300"),
    (b"access-control-allow-origin", b"*"),
    (b"x-content-type-options", b"nosniff"),
]
Fields = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """An answer that is an error: RFC 6749, 5.2. fields: header fields that go with it."""

    def __init__(self, error: str, description: str = "", *, status: int = 400, fields: Fields | None = None) -> None:
        super().__init__(error)
        self.error, self.description, self.status, self.fields = error, description, status, fields or []


class Provider:
    """The endpoints. Each function takes a request and returns what is answered as JSON, None for an empty answer."""

    def __init__(self, services: Services, limits: Limits, keys: Keys) -> None:
        self._services, self._limits, self.keys = services, limits, keys
        self.endpoints = endpoints(services.settings.server)

    def routes(self) -> list[BaseRoute]:
        """Return Starlette's routes."""
        return [
            self._route("/.well-known/openid-configuration", ("GET",), self._discovery, _PUBLIC),
            self._route("/oidc/jwks", ("GET",), self._jwks, _PUBLIC),
            self._route("/oidc/token", ("POST",), self._token, _PRIVATE),
            self._route("/oidc/userinfo", ("GET", "POST"), self._userinfo, _PRIVATE),
            self._route("/oidc/revoke", ("POST",), self._revoke, _PRIVATE),
            self._route("/oidc/introspect", ("POST",), self._introspect, _PRIVATE),
            Route("/oidc/authorize", _as_get, methods=["POST"]),
            Route("/oidc/logout", _as_get, methods=["POST"]),
        ]

    def _route(
        self, path: str, methods: tuple[str, ...], answer: Callable[[Request], Awaitable[Any]], fields: Fields
    ) -> BaseRoute:
        allowed = ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])

        async def endpoint(request: Request) -> Response:
            if request.method not in allowed.split(", ") or request.method == "OPTIONS":
                return Answer(b"", 204 if request.method == "OPTIONS" else 405, [(b"allow", allowed.encode()), *fields])
            try:
                return _json(await answer(request), 200, fields)
            except Refusal as refusal:
                told = {"error": refusal.error}
                if refusal.description:
                    told["error_description"] = refusal.description
                return _json(told, refusal.status, [*refusal.fields, *_PRIVATE])
            except TooManyRequests as error:
                wait = [(b"retry-after", b"%d" % error.retry_after)]
                return _json({"error": "temporarily_unavailable"}, 429, [*wait, *_PRIVATE])
            except DiyCloudError as error:
                log.warning("provider cannot answer", path=path, reason=str(error))
                return _json({"error": "temporarily_unavailable"}, 503, [(b"retry-after", b"5"), *_PRIVATE])

        return Route(path, endpoint, methods=_METHODS)

    # -- what is public

    async def _discovery(self, request: Request) -> dict[str, Any]:
        """Describe the provider (Discovery 1.0, 3; RFC 8414; RFC 9207, 3)."""
        known, confidential = self.endpoints, ["client_secret_basic", "client_secret_post"]
        return {
            "issuer": known.issuer,
            "authorization_endpoint": known.authorization,
            "token_endpoint": known.token,
            "userinfo_endpoint": known.userinfo,
            "jwks_uri": known.jwks,
            "revocation_endpoint": f"{known.issuer}/oidc/revoke",
            "introspection_endpoint": f"{known.issuer}/oidc/introspect",
            "end_session_endpoint": known.logout,
            "scopes_supported": SCOPES,
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "token_endpoint_auth_methods_supported": [*confidential, "none"],
            "revocation_endpoint_auth_methods_supported": [*confidential, "none"],
            "introspection_endpoint_auth_methods_supported": confidential,
            "code_challenge_methods_supported": ["S256"],
            "prompt_values_supported": ["none", "login", "consent", "select_account"],
            "acr_values_supported": claims.ACR,
            "claim_types_supported": ["normal"],
            "claims_supported": [
                "iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "acr", "amr", "at_hash", "preferred_username",
                "name", "email", "email_verified", "groups", "role", "domain",
            ],
            "claims_parameter_supported": False,
            "request_parameter_supported": False,
            "request_uri_parameter_supported": False,
            "authorization_response_iss_parameter_supported": True,
        }  # fmt: skip

    async def _jwks(self, request: Request) -> dict[str, Any]:
        return {"keys": await self.keys.public()}

    # -- for applications

    async def _token(self, request: Request) -> dict[str, Any]:
        """Give tokens for a code or a refresh token (RFC 6749, 4.1.3 and 6; OpenID Connect Core 1.0, 3.1.3 and 12)."""
        values = await _form(request)
        client = await self._client(request, values)
        kind = values.get("grant_type")
        if kind == "authorization_code":
            issued = await self._redeem(client, values, request)
        elif kind == "refresh_token":
            issued = await self._refresh(client, values, request)
        elif kind is None:
            raise Refusal("invalid_request", "There is no grant_type.")
        else:
            raise Refusal("unsupported_grant_type")
        rules = self._rules()
        told: dict[str, Any] = {
            "access_token": issued.access,
            "token_type": "Bearer",
            "expires_in": rules.access_s,
            "scope": " ".join(issued.scopes),
        }
        if issued.refresh is not None:
            told["refresh_token"] = issued.refresh
        if "openid" in issued.scopes:
            first = kind == "authorization_code"
            told["id_token"] = await self.keys.sign(
                claims.id_token(
                    self.endpoints.issuer,
                    issued.grant,
                    issued.access,
                    now=rules.now,
                    seconds=rules.access_s,
                    first=first,
                )
            )
        return told

    async def _redeem(self, client: Client, values: Mapping[str, str], request: Request) -> Issued:
        if "code" not in values or "redirect_uri" not in values:
            raise Refusal("invalid_request", "A code and its redirect_uri are needed.")
        done = await self._services.database.write(
            grants.redeem, values["code"], client=client, redirect_uri=values["redirect_uri"],
            verifier=values.get("code_verifier"), rules=self._rules(),
        )  # fmt: skip
        return done if isinstance(done, Issued) else await self._refuse(*done, client, request)

    async def _refresh(self, client: Client, values: Mapping[str, str], request: Request) -> Issued:
        if "refresh_token" not in values:
            raise Refusal("invalid_request", "A refresh_token is needed.")
        scopes = tuple(values["scope"].split()) if "scope" in values else None
        done = await self._services.database.write(
            grants.refresh, values["refresh_token"], client=client, scopes=scopes, rules=self._rules()
        )
        return done if isinstance(done, Issued) else await self._refuse(*done, client, request)

    async def _refuse(self, why: Refused, grant: Grant | None, client: Client, request: Request) -> Issued:
        """Raise what an application is told, which is the same for every reason; what looks like theft is audited."""
        if why is Refused.SCOPE:
            raise Refusal("invalid_scope")
        log.info("code or token refused", app=client.name, reason=why.value)
        if grant is not None and why in (Refused.REUSED, Refused.FOREIGN, Refused.MISMATCH):
            actor = stranger("oidc", identity.address(request), identity.request_id(request))._replace(name=client.name)

            def note(connection: Connection) -> None:
                row = audit.begin(connection, actor, "app.token", grant.username, {"app": grant.client})
                audit.end(
                    connection, row, "refused", code=why.name.lower(), message=f"{why}: this sign-in has ended",
                    duration_ms=0, changes=None,
                )  # fmt: skip

            await self._services.database.write(note)
        raise Refusal("invalid_grant")

    async def _userinfo(self, request: Request) -> dict[str, Any]:
        """Tell about the person a token stands for (OpenID Connect Core 1.0, 5.3; RFC 6750).

        Servers ask, so nobody's networks can be checked here: they were when the person came, and still hold that address.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            self._take_stranger(request)
            raise Refusal("invalid_request", status=401, fields=[(b"www-authenticate", b'Bearer realm="DIY Cloud"')])
        database = self._services.database
        found = await database.read(grants.find_valid, token.strip(), "access", self._rules())
        if found is None:
            self._take_stranger(request)
            raise _bearer("invalid_token", 401)
        _check(self._limits.of(("grant", found.grant.id)))
        if "openid" not in found.scopes:
            raise _bearer("insufficient_scope", 403)
        row = await database.read(repository.by_id, found.grant.user_id)
        if row is None:
            raise _bearer("invalid_token", 401)
        return claims.userinfo(row, found.scopes)

    async def _revoke(self, request: Request) -> None:
        """End a token (RFC 7009). One that is none, or ended already, is no error."""
        values = await _form(request)
        client = await self._client(request, values)
        if "token" not in values:
            raise Refusal("invalid_request", "There is no token.")
        for kind in ("access", "refresh"):
            found = await self._services.database.read(grants.find, values["token"], kind)
            if found is not None:
                if found.grant.client_row != client.id:
                    raise Refusal("unauthorized_client", "The token is not this application's.")
                await self._services.database.write(grants.revoke, found)

    async def _introspect(self, request: Request) -> dict[str, Any]:
        """Tell an application whether a token of its own holds (RFC 7662); of any other only that it does not."""
        values = await _form(request)
        client = await self._client(request, values)
        if client.app.public:
            raise _invalid_client(request)
        if "token" not in values:
            raise Refusal("invalid_request", "There is no token.")
        for kind in ("access", "refresh"):
            found = await self._services.database.read(grants.find_valid, values["token"], kind, self._rules())
            if found is not None and found.grant.client_row == client.id:
                told = {
                    "active": True,
                    "scope": " ".join(found.scopes),
                    "client_id": client.name,
                    "username": found.grant.username,
                    "sub": found.grant.uuid,
                    "aud": client.name,
                    "iss": self.endpoints.issuer,
                    "iat": found.created_at,
                    "exp": found.expires_at,
                }
                return told | ({"token_type": "Bearer"} if kind == "access" else {})
        return {"active": False}

    # -- who asks

    async def _client(self, request: Request, values: Mapping[str, str]) -> Client:
        """Return the application that asks, by its secret (RFC 6749, 2.3.1), or a public one by its name alone."""
        header = request.headers.get("authorization")
        if header is None:
            name, secret = values.get("client_id", ""), values.get("client_secret")
        elif "client_secret" in values:
            self._take_stranger(request)
            raise Refusal("invalid_request", "There are two ways of authentication.")
        else:
            name, secret = _basic(header)
            if values.get("client_id", name) != name:
                name = ""
        client = await self._services.database.read(clients.by_name, name) if name else None
        if client is None or not client.app.enabled or not self._holds(client, secret):
            self._take_stranger(request)
            raise _invalid_client(request)
        if client.app.public:
            self._take_stranger(request)
        else:
            _check(self._limits.of(("app", client.id)))
        return client

    @staticmethod
    def _holds(client: Client, secret: str | None) -> bool:
        if client.app.public:
            return not secret
        return secret is not None and client.has_secret(secret)

    def _take_stranger(self, request: Request) -> None:
        _check(self._limits.take(stranger("oidc", identity.address(request), "")))

    def _rules(self) -> Rules:
        settings = self._services.settings.server
        return Rules(
            now=int(time.time()),
            session_idle_s=settings.session_idle_minutes * 60,
            access_s=settings.oidc_access_minutes * 60,
            refresh_s=settings.oidc_refresh_days * 86_400,
            factor_roles=settings.second_factor_roles,
        )


def _json(value: Any, status: int, fields: Fields) -> Response:
    body = b"" if value is None else encode(value)
    return Answer(
        body, status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)), *fields]
    )


def _check(quota: Quota | None) -> None:
    if quota is not None:
        quota.check()


def _bearer(error: str, status: int) -> Refusal:
    told = f'Bearer realm="DIY Cloud", error="{error}"'.encode()
    return Refusal(error, status=status, fields=[(b"www-authenticate", told)])


def _invalid_client(request: Request) -> Refusal:
    asked = "authorization" in request.headers
    fields = [(b"www-authenticate", b'Basic realm="DIY Cloud"')] if asked else []
    return Refusal("invalid_client", status=401, fields=fields)


def _basic(header: str) -> tuple[str, str]:
    """Return name and secret of HTTP Basic, each form-encoded (RFC 6749, 2.3.1); empty ones for anything else."""
    scheme, _, text = header.partition(" ")
    try:
        name, colon, secret = base64.b64decode(text.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return (unquote_plus(name), unquote_plus(secret)) if scheme.lower() == "basic" and colon else ("", "")


async def _form(request: Request) -> Mapping[str, str]:
    """Return the parameters of a form, each there once. Raises Refusal; secrets in an address would be in logs."""
    if request.scope["query_string"]:
        raise Refusal("invalid_request", "Parameters belong into the body.")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise Refusal("invalid_request", f"The body must be {FORM}.")
    given = await _parameters(request)
    if given.twice:
        raise Refusal("invalid_request", "A parameter is there twice.")
    return given.values


async def _parameters(request: Request) -> Parameters:
    try:
        text = (await read_body(request, MAX_FORM)).decode("ascii")
        return Parameters.of(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"))
    except (ValueError, HttpError):
        raise Refusal("invalid_request", "The body is no form, or too large.") from None


async def _as_get(request: Request) -> Response:
    """Turn a request that came as a form into the same as an address: only then the browser sends its session along.

    The form is another site's, so the cookie (SameSite=Lax) is not with it.
    """
    try:
        text = (await read_body(request, MAX_FORM)).decode("ascii")
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict")
    except (ValueError, HttpError):
        pairs = []
    return RedirectResponse(f"{request.url.path}?{urlencode(pairs)}", 303, NO_REFERRER)
