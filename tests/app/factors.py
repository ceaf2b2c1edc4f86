"""What tests of second factors share: a clock that stands, a phone with an app, signing in by REST."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from diycloud.auth import totp

from .restful import ADMIN, FAR, PASSWORD, World

LOGIN, SECOND = "/api/v1/auth/login", "/api/v1/auth/login/second"
ADA = "another good phrase"


class Clock:
    """The server's clock as codes see it: it stands, in the middle of a step, until a phone needs the next one."""

    def __init__(self) -> None:
        self.now = 1_800_000_015.0

    def time(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(totp, "time", CLOCK)


def now() -> int:
    return int(CLOCK.now) // totp.STEP_S


class Phone:
    """An app with a secret, whose owner waits for the next code where the last one was used."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self._last = now() - 1

    def code(self) -> str:
        """Return the next code that was not used yet, waiting for it."""
        self._last = max(self._last + 1, now())
        CLOCK.now = max(CLOCK.now, self._last * totp.STEP_S + 15.0)
        return totp.code_at(self.secret, self._last)


def enrol(world: World, token: str) -> tuple[Phone, list[str]]:
    """Set up an app; returns it and the recovery codes."""
    phone = Phone(world.ask("POST", "/api/v1/account/totp", token=token).json()["secret"])
    done = world.ask("PUT", "/api/v1/account/totp", token=token, json={"code": phone.code()})
    assert done.status_code == 200, done.text
    return phone, done.json()["codes"]


def login(world: World, username: str = ADMIN, password: str = PASSWORD, **more: Any) -> httpx.Response:
    address = more.pop("address", FAR)
    sent = {"username": username, "password": password, **more}
    return world.ask("POST", LOGIN, token="", json=sent, address=address)


def second(world: World, ticket: str, **more: Any) -> httpx.Response:
    address = more.pop("address", FAR)
    return world.ask("POST", SECOND, token="", json={"ticket": ticket, **more}, address=address)


def ada(world: World, token: str, **more: Any) -> str:
    """Make a user; returns a token of theirs."""
    made = world.ask("POST", "/api/v1/users", token=token, json={"username": "ada", "password": ADA, **more})
    assert made.status_code == 201, made.text
    return world.token("ada", ADA)


def entries(world: World, action: str) -> list[dict[str, Any]]:
    return list(world.ask("GET", f"/api/v1/audit?action={action}&limit=100").json()["entries"])


class Browser:
    """Keeps cookies and sends forms with their token."""

    def __init__(self, world: World) -> None:
        self._world, self.cookies = world, httpx.Cookies()
        self.csrf = ""

    def _ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        cookies = {"Cookie": "; ".join(f"{c.name}={c.value}" for c in self.cookies.jar)}
        answer = self._world.ask(method, path, token="", headers={**cookies, **more.pop("headers", {})}, **more)
        self.cookies.extract_cookies(answer)
        found = re.search(r'name="csrf" value="([^"]+)"', answer.text)
        self.csrf = found[1] if found else self.csrf
        return answer

    def get(self, path: str) -> httpx.Response:
        return self._ask("GET", path)

    def post(self, path: str, **fields: str) -> httpx.Response:
        return self._ask("POST", path, data={"csrf": self.csrf, **fields})
