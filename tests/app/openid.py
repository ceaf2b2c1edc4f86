"""A small OpenID Connect client for tests, and people with a browser, in front of the whole application."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import re
import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwk, jwt
from sqlalchemy import Connection

from diycloud.auth import sessions
from diycloud.auth.oidc import keys
from diycloud.db.engine import Database
from diycloud.users import repository
from diycloud.users.models import Allocation
from diycloud.web.identity import COOKIE
from tests.app.restful import World

ISSUER = "https://cloud.test"
BACK = "https://app.test/callback"
VERIFIER = "v" * 43
OFFLINE = {"client_id": "nightly", "scope": "openid profile offline_access"}
"""What the application `nightly` asks for."""
MADE = keys._make()
"""A signing key: making one takes its time."""
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


class OpenId(World):
    """The whole application with some users, and applications made through REST."""

    def __init__(self, database: Database, **settings: Any) -> None:
        super().__init__(database, host_name="cloud.test", **settings)
        self.secrets: dict[str, str] = {}

    def user(self, name: str, **values: Any) -> int:
        """Add a user to the table; returns the id."""

        def store(connection: Connection) -> int:
            row = {"username": name, "password_hash": "plain x", "status": "active", "portal_only": 1, **values}
            return repository.add(connection, row, Allocation())

        return asyncio.run(self.database.write(store))

    def signed_in(
        self, user_id: int, *, ago: int = 0, methods: tuple[str, ...] = ("pwd",), kind: str = "browser"
    ) -> str:
        """Begin a session, so many seconds ago; returns what its cookie holds."""
        now = int(time.time()) - ago

        def store(connection: Connection) -> str:
            return sessions.begin(
                connection,
                user_id,
                now=now,
                max_s=86_400,
                kind=kind,
                address="192.0.2.7",
                user_agent="t",
                methods=methods,
            )

        return asyncio.run(self.database.write(store))

    def by_hand(self, statement: str) -> list[Any]:
        def run(connection: Connection) -> list[Any]:
            found = connection.exec_driver_sql(statement)
            return [tuple(row) for row in found] if found.returns_rows else []

        return asyncio.run(self.database.write(run))

    def app_of(self, name: str = "wiki", **values: Any) -> str:
        """Make an application, trusted unless told; returns its client_id."""
        sent = {"name": name, "redirect_uris": [BACK], "trusted": not values.get("public"), **values}
        made = self.ask("POST", "/api/v1/apps", json=sent)
        assert made.status_code == 201, made.text
        self.secrets[name] = made.json()["secret"] or ""
        return name

    # -- the browser

    def get(self, path: str, cookie: str = "", **more: Any) -> httpx.Response:
        headers = {**more.pop("headers", {}), **({"cookie": f"{COOKIE}={cookie}"} if cookie else {})}
        return self.ask("GET", path, token="", headers=headers, **more)

    def post(self, path: str, cookie: str, data: dict[str, str], **more: Any) -> httpx.Response:
        """Send a form as the page itself would, with its session's CSRF token."""
        asked = sessions.token_hash(cookie).hex()
        ((csrf,),) = self.by_hand(f"SELECT csrf FROM sessions WHERE token_hash = x'{asked}'") or [("",)]
        headers = {"cookie": f"{COOKIE}={cookie}", "sec-fetch-site": "same-origin"}
        return self.ask("POST", path, token="", headers=headers, data={"csrf": csrf, **data}, **more)

    def authorize(self, cookie: str = "", **changes: Any) -> httpx.Response:
        return self.get(f"/oidc/authorize?{urlencode(asked(**changes))}", cookie)

    def code(self, cookie: str, **changes: Any) -> str:
        answer = self.authorize(cookie, **changes)
        assert answer.status_code == 303, answer.text
        return told(answer)["code"]

    # -- the application

    def redeem(self, code: str = "", as_: str = "wiki", **changes: str | None) -> httpx.Response:
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": VERIFIER}
        return self.form("/oidc/token", as_, **{**form, **changes})

    def refresh(self, token: str, as_: str = "wiki", **changes: str | None) -> httpx.Response:
        return self.form("/oidc/token", as_, **{"grant_type": "refresh_token", "refresh_token": token, **changes})

    def form(self, path: str, as_: str = "wiki", **fields: str | None) -> httpx.Response:
        data = {name: value for name, value in fields.items() if value is not None}
        return self.ask("POST", path, token="", data=data, auth=(as_, self.secrets[as_]))

    def userinfo(self, access: str) -> httpx.Response:
        return self.ask("GET", "/oidc/userinfo", token=access)

    def tokens(self, cookie: str, **changes: Any) -> dict[str, Any]:
        """Sign in from beginning to end; returns what the token endpoint told."""
        answer = self.redeem(self.code(cookie, **changes), as_=changes.get("client_id", "wiki"))
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def claims(self, id_token: str) -> dict[str, Any]:
        """Return an ID token's claims, checked as an application checks them."""
        keys = jwk.KeySet.import_key_set(self.get("/oidc/jwks").json())
        found = jwt.decode(id_token, keys, algorithms=["RS256"])
        jwt.JWTClaimsRegistry(iss={"essential": True, "value": ISSUER}, exp={"essential": True}).validate(found.claims)
        return dict(found.claims)


def asked(**changes: Any) -> list[tuple[str, str]]:
    """Return an authorization request. changes: parameters; None leaves one out, a list sends it several times."""
    usual: dict[str, Any] = {
        "response_type": "code", "client_id": "wiki", "redirect_uri": BACK, "scope": "openid profile email",
        "state": "a state", "nonce": "a nonce", "code_challenge": CHALLENGE, "code_challenge_method": "S256",
    }  # fmt: skip
    found: list[tuple[str, str]] = []
    for name, value in {**usual, **changes}.items():
        found += [(name, part) for part in (value if isinstance(value, list) else [value]) if part is not None]
    return found


def told(answer: httpx.Response) -> dict[str, str]:
    """Return what a redirect tells the application."""
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


def goes_on_to(page: httpx.Response) -> str:
    """Return where a page goes by itself."""
    found = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text)
    assert found, page.text
    return html.unescape(found[1])
