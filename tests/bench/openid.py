"""A sign-in at an application, as its program and a signed-in browser make it: authorize, token, userinfo."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import time
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.bench.harness import Figure, Row
from tests.bench.setting import Setting

BACK = "https://bench.test/back"
TRIPS = 100
_STEPS = ("authorize", "token", "userinfo")


def bench_open_id(setting: Setting) -> None:
    """The whole way of an OpenID Connect sign-in with PKCE on one kept connection, and each of its steps."""
    platform = setting.platform("openid-ours", users=500, tcp=True)
    if platform is None:
        return
    made = platform.call("POST", "/api/v1/apps", {"name": "bench", "redirect_uris": [BACK], "trusted": True})
    client = _Client(platform.port, platform.token, made["secret"])
    client.trip()  # the first one makes the key
    trips = [client.trip() for _ in range(TRIPS)]
    client.connection.close()
    whole = Figure(tuple(sum(trip) for trip in trips), "ms")
    steps = ", ".join(
        f"{name} {Figure(each, 'ms')}" for name, each in zip(_STEPS, zip(*trips, strict=True), strict=True)
    )
    setting.report.add(Row("OpenID Connect round trip", whole, None, "", steps))


class _Client:
    """An application and a browser whose session holds, over one connection."""

    def __init__(self, port: int, cookie: str, secret: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port)
        self.cookie = {"Cookie": f"__Host-diycloud={cookie}"}
        basic = base64.b64encode(f"bench:{secret}".encode()).decode()
        self.basic = {"Authorization": f"Basic {basic}", "Content-Type": "application/x-www-form-urlencoded"}

    def trip(self) -> tuple[float, float, float]:
        """Sign in once; returns the milliseconds of each step. Raises AssertionError if one is refused."""
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        asked = {
            "response_type": "code", "client_id": "bench", "redirect_uri": BACK, "scope": "openid profile", "state": "s",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), "code_challenge_method": "S256",
        }  # fmt: skip
        first, headers, _ = self._ask("GET", f"/oidc/authorize?{urlencode(asked)}", self.cookie)
        code = parse_qs(urlsplit(headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": BACK, "code_verifier": verifier}
        second, _, given = self._ask("POST", "/oidc/token", self.basic, urlencode(form))
        third, _, person = self._ask("GET", "/oidc/userinfo", {"Authorization": f"Bearer {given['access_token']}"})
        assert person["sub"] and given["id_token"]
        return first, second, third

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: str | None = None
    ) -> tuple[float, dict[str, str], Any]:
        started = time.perf_counter()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        took = (time.perf_counter() - started) * 1000
        assert answer.status in (200, 303), (answer.status, text[:300])
        return took, {name.lower(): value for name, value in answer.getheaders()}, json.loads(text) if text else None
