"""A small OpenID Connect provider of our own, over HTTP, that can also misbehave; and a browser between it and the server."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from diycloud.auth.outside.gateway import Outside
from diycloud.config_sign_in import ProviderSettings, SignInSettings
from diycloud.db.engine import Database
from tests.app.restful import World

CLIENT, SECRET = "portal & co", "s+ecret/of the:client"
COOKIE, SESSION = "__Host-diycloud-outside", "__Host-diycloud"
RSA = RSAKey.generate_key(2048, {"kid": "one", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "two", "use": "sig"})


class Provider:
    """What a provider does. Tests change claims, header, keys, answers and meta before somebody signs in."""

    def __init__(self) -> None:
        self.keys: list[Any] = [RSA]
        self.signs: Any = RSA
        self.algorithm = "RS256"
        self.claims: dict[str, Any] = {"sub": "s-1", "preferred_username": "dtouada", "name": "Ada"}
        self.userinfo: dict[str, Any] | None = None
        self.meta: dict[str, Any] = {}
        self.sign: Callable[[dict[str, Any]], str] = self._sign
        self.codes: dict[str, dict[str, str]] = {}
        self.asked: list[str] = []
        self.tokens: dict[str, Any] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.answer(*outer.get(self.path, self.headers.get("authorization", "")))

            def do_POST(self) -> None:
                outer.asked.append(self.path)
                sent = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(sent).items()}
                self.answer(*outer.redeem(form, self.headers.get("authorization", "")))

            def answer(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers or {"content-type": "application/json"}).items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/realm"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()

    def get(self, path: str, authorization: str) -> tuple[Any, ...]:
        if path == "/realm/.well-known/openid-configuration":
            told = {
                "issuer": self.issuer, "authorization_endpoint": f"{self.issuer}/authorize?tenant=1",
                "token_endpoint": f"{self.issuer}/token", "jwks_uri": f"{self.issuer}/keys",
                **({"userinfo_endpoint": f"{self.issuer}/userinfo"} if self.userinfo is not None else {}),
            }  # fmt: skip
            return 200, {**told, **self.meta}
        if path == "/realm/keys":
            return 200, {"keys": [key.as_dict(private=False) for key in self.keys]}
        if path == "/realm/userinfo" and authorization.startswith("Bearer at-"):
            return 200, self.userinfo
        return 404, {}

    def redeem(self, form: dict[str, str], authorization: str) -> tuple[Any, ...]:
        asked = self.codes.pop(form.get("code", ""), None)
        if asked is None or form["redirect_uri"] != asked["redirect_uri"] or form["grant_type"] != "authorization_code":
            return 400, {"error": "invalid_grant"}
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if challenge.decode() != asked["code_challenge"] or asked["code_challenge_method"] != "S256":
            return 400, {"error": "invalid_grant"}
        user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode().partition(":")
        if (unquote(user), unquote(password)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        access, now = f"at-{secrets.token_hex(8)}", int(time.time())
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims = {
            "iss": self.issuer, "aud": CLIENT, "iat": now, "exp": now + 300, "nonce": asked["nonce"], "auth_time": now,
            "at_hash": base64.urlsafe_b64encode(half).rstrip(b"=").decode(), **self.claims,
        }  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        return 200, {"token_type": "Bearer", "access_token": access, "id_token": self.sign(claims), **self.tokens}

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(
            {"alg": self.algorithm, "kid": self.signs.kid}, claims, self.signs, algorithms=[self.algorithm]
        )

    def sign_in(self, url: str) -> dict[str, str]:
        """Do what a person does there; returns the query they come back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        assert asked["response_type"] == "code" and asked["client_id"] == CLIENT and asked["tenant"] == "1"
        code = secrets.token_hex(8)
        self.codes[code] = asked
        return {"code": code, "state": asked["state"]}


class Browser:
    """Somebody at the portal, with cookies."""

    def __init__(self, world: World, run: asyncio.Runner) -> None:
        self.world, self._run = world, run
        self.cookies: dict[str, str] = {}

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"cookie": "; ".join(f"{k}={v}" for k, v in self.cookies.items()), **more.pop("headers", {})}
        found = self._run.run(self.world.send(method, path, token="", headers=headers, **more))
        for line in found.headers.get_list("set-cookie"):
            name, _, rest = line.partition("=")
            value = rest.partition(";")[0].strip('"')
            if value and "Max-Age=0" not in line:
                self.cookies[name] = value
            else:
                self.cookies.pop(name, None)
        return found

    def by_hand(self, statement: str) -> None:
        async def run() -> None:
            await self.world.database.write(lambda connection: connection.exec_driver_sql(statement) and None)

        self._run.run(run())

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]*)"', self.ask("GET", "/account/sessions").text)
        return found[1] if found else ""

    def start(self, path: str = "/sign-in/with/uni", **form: str) -> str:
        """Press the button; returns where it leads."""
        page = self.ask("POST", path, data={"csrf": "", "next": "/groups", **form})
        assert page.status_code == 200, page.text
        found = re.search(r'content="0;url=([^"]+)"', page.text)
        assert found, page.text
        return found[1].replace("&amp;", "&")

    def back(self, query: dict[str, str], name: str = "uni") -> httpx.Response:
        return self.ask("GET", f"/sign-in/with/{name}/back", params=query)

    def refusal(self) -> str:
        """Return what the page says to which somebody was sent."""
        text = self.ask("GET", "/sign-in").text
        assert 'role="alert"' in text or "note-error" in text or "flash" in text, text
        return text


def running() -> Iterator[Provider]:
    """Give a provider that answers."""
    found = Provider()
    yield found
    found.close()


Make = Callable[..., Browser]


def browsers(database: Database, provider: Provider, tmp_path: Path) -> Iterator[Make]:
    """Make a server that knows the provider, by these settings, and a browser before it."""
    (tmp_path / "secret").write_text(f"{SECRET}\nnot this\n")
    runner, made = asyncio.Runner(), list[World]()

    def browser(**more: Any) -> Browser:
        given = {
            "name": "uni", "label": "The University", "issuer": provider.issuer, "client_id": CLIENT,
            "client_secret_file": str(tmp_path / "secret"), "create": True, **more,
        }  # fmt: skip
        if not made:
            world = World(
                database, sign_in=SignInSettings(providers=(ProviderSettings(**given),)), host_name="cloud.test"
            )
            world.first_admin()
            made.append(world)
        return Browser(made[0], runner)

    yield browser
    for world in made:
        assert isinstance(world.services.outside, Outside)
        runner.run(world.services.outside.close())
    runner.close()


def users(world: World) -> int:
    return int(world.ask("GET", "/api/v1/users").json()["total"])


def create(world: World, name: str, **more: Any) -> None:
    sent = {"username": name, "password": "their own good phrase", "must_change_password": False, **more}
    assert world.ask("POST", "/api/v1/users", json=sent).status_code == 201
