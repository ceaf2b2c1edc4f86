"""Notebooks in the portal: its tile and its page, and what a notebook's script can do to the portal."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from diycloud.web.identity import COOKIE
from tests.app.notebook_site import Site
from tests.app.restful import FAR


def test_the_tile_shows_state_size_and_why(site: Site, ada: int, cookie: str) -> None:
    home = site.get("/", cookie).text
    assert "not running" in home and 'name="profile:"' in home and 'name="start"' in home
    site.host.runs("ada", state="failed", memory_kill=True, profile="small", log=("<b>bold</b>",))
    home = site.get("/", cookie).text
    assert "ended for memory: the limit is 512M" in home and "&lt;b&gt;bold" in home and "Start again" in home
    site.host.runs("ada", profile="small", started=time.time(), memory=1 << 30)
    home = site.get("/", cookie).text
    assert 'href="/jupyter/user/ada/"' in home and "1G of your memory" in home and 'name="stop"' in home


def test_start_leads_to_the_server(site: Site, ada: int, cookie: str) -> None:
    started = site.post("/notebooks", cookie, {"start": "", "profile:": "large", "profile:big": "small"})
    assert (started.status_code, started.headers["location"]) == (303, "/jupyter/user/ada/")
    assert ("start", "ada", "", "large") in site.hub.asked
    site.post("/notebooks", cookie, {"start": "big", "profile:": "large", "profile:big": "small"})
    assert ("start", "ada", "big", "small") in site.hub.asked
    added = site.post("/notebooks/new", cookie, {"server_name": "third", "profile": "small"})
    assert added.headers["location"] == "/jupyter/user/ada/third/"
    for name in ("", "No Name", "a" * 31):
        assert site.post("/notebooks/new", cookie, {"server_name": name, "profile": "small"}).status_code == 422
    page = site.get("/notebooks", cookie).text
    assert "third" in page and page.count('name="stop"') == 3
    stopped = site.post("/notebooks", cookie, {"stop": "big"})
    assert (stopped.status_code, stopped.headers["location"]) == (303, "/notebooks")
    assert site.host.servers["ada", "big"].state == "stopped" and site.host.servers["ada", ""].state == "running"


def test_pages_are_for_those_who_are_signed_in(site: Site, ada: int) -> None:
    assert site.get("/notebooks").status_code == 303
    assert site.get("/events/notebooks").status_code == 303
    forged = site.ask(
        "POST", "/notebooks", token="", headers={"cookie": f"{COOKIE}={site.signed_in(ada)}"}, data={"start": ""}
    )
    assert forged.status_code == 403 and not site.hub.asked


def test_the_page_follows_what_happens(site: Site, ada: int, cookie: str) -> None:
    part = site.get("/notebooks?fragment=1", cookie).text
    before = re.findall(r'data-mark="(\w+)"', part)
    assert (
        before
        and "<html" not in part
        and before == re.findall(r'data-mark="(\w+)"', site.get("/notebooks", cookie).text)
    )

    async def watch() -> list[str]:
        """Read the stream as a browser does, while a server starts."""
        told: list[str] = []
        sent = {"cookie": f"{COOKIE}={cookie}", "x-forwarded-for": FAR}
        scope = {
            "type": "http", "method": "GET", "path": "/events/notebooks", "raw_path": b"/events/notebooks",
            "query_string": b"", "http_version": "1.1", "scheme": "https", "root_path": "", "asgi": {"version": "3.0"},
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("unix-uid", 33), "server": ("cloud.test", 443),
        }  # fmt: skip
        done = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await done.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if body := message.get("body"):
                told.append(json.loads(body.decode().removeprefix("data: "))["mark"])
            if len(told) == 1:
                site.host.runs("ada")
                site.services.notebook_changes.tell("ada")
            if len(told) == 2:
                done.set()

        await asyncio.wait_for(site.app(scope, receive, send), 10)
        return told

    first, second = asyncio.run(watch())
    assert first == before[0] != second
    assert re.findall(r'data-mark="(\w+)"', site.get("/notebooks", cookie).text) == [second]


# -- what a notebook's script can do to the portal, on the same origin


@pytest.fixture
def script(site: Site, ada: int, cookie: str) -> Callable[..., httpx.Response]:
    """Ask as a script in JupyterLab does that runs in ada's browser: her cookie goes along."""
    headers = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"}
    return lambda path, method="GET", **more: site.ask(
        method, path, token="", headers={"cookie": f"{COOKIE}={cookie}", **headers}, **more
    )


@pytest.mark.parametrize(
    "path",
    ["/", "/account", "/account/keys", "/account/tokens/new", "/sign-in", "/confirm", "/users/ada", "/nothing", "/notebooks",
     "/notebooks?fragment=1", "/notebooks?fragment=tile", "/users", "/users?fragment=1", "/users/ada/notebooks",
     "/oidc/authorize"],
)  # fmt: skip
def test_a_script_reads_no_csrf_token(
    site: Site, cookie: str, script: Callable[..., httpx.Response], path: str
) -> None:
    ((csrf,),) = site.by_hand("SELECT csrf FROM sessions")
    answer = script(path)
    assert csrf not in answer.text and "set-cookie" not in answer.headers
    if not path.startswith(("/notebooks", "/users")):
        assert answer.status_code in (403, 404)
    assert answer.headers.get("cross-origin-opener-policy") == "same-origin"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_a_script_has_no_session_at_rest(script: Callable[..., httpx.Response], site: Site, cookie: str) -> None:
    assert script("/api/v1/auth/whoami").status_code == 401
    assert script("/api/v1/users/ada").status_code == 401
    typed = {"cookie": f"{COOKIE}={cookie}", "sec-fetch-mode": "navigate", "sec-fetch-site": "none"}
    assert site.ask("GET", "/api/v1/users/ada", token="", headers=typed).status_code == 200, (
        "typed into the address bar"
    )


def test_a_script_sends_no_form(script: Callable[..., httpx.Response], site: Site, ada: int) -> None:
    for csrf in ("", "guess"):
        assert script("/account/keys", "POST", data={"csrf": csrf, "key": "ssh-ed25519 AAAA"}).status_code == 403
        assert script("/notebooks", "POST", data={"csrf": csrf, "start": ""}).status_code == 403
    assert not site.hub.asked
