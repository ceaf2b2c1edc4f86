"""The import page asks for a fresh proof, before anything is typed; and what was sent too late is not lost by it."""

from __future__ import annotations

import asyncio
import json
import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from diycloud.web.identity import UNIX_PEER

from .restful import PASSWORD, World
from .test_account_pages import SITE, Browser, admin, stale, world  # noqa: F401 - fixtures

CSV = 'username,full_name,role\r\neve,"Eve ""E"" <b>",monitor\r\n'


def fields(text: str) -> dict[str, str]:
    """Return the hidden fields of a page's form to /import or /confirm, as a browser would send them."""
    form = re.search(r'<form class="form"[^>]*action="(/import|/confirm)".*?</form>', text, re.S)
    assert form is not None, text
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[0])
    return {name: unescape(value) for name, value in found}


def names(world: World) -> set[str]:  # noqa: F811
    return {user["username"] for user in world.ask("GET", "/api/v1/users").json()["users"]}


def test_the_proof_is_asked_for_before_the_form(world: World, admin: Browser) -> None:  # noqa: F811
    assert admin.get("/import").status_code == 200
    stale(world)
    there = urlsplit(admin.get("/import").headers["location"])
    assert there.path == "/confirm" and parse_qs(there.query) == {"next": ["/import"]}


@pytest.mark.parametrize("confirm", [{}, {"confirm": "1"}], ids=["looked at", "done"])
def test_rows_that_are_sent_too_late_wait_for_the_proof(
    world: World,  # noqa: F811
    admin: Browser,  # noqa: F811
    confirm: dict[str, str | list[str]],
) -> None:
    stale(world)
    asked = admin.post("/import", {"csv": CSV, "update": "true", **confirm}, page="/import")
    assert asked.status_code == 403 and "Confirm it is you" in asked.text and "eve" not in names(world)
    waiting = fields(asked.text)
    wrong = admin.post("/confirm", {**waiting, "password": "not it"})
    assert wrong.status_code == 422 and fields(wrong.text)["kept"] == waiting["kept"], "nor by a mistyped password"
    right = admin.post("/confirm", {**fields(wrong.text), "password": PASSWORD})
    assert right.status_code == 200 and "eve" not in names(world), "a button sends it"
    kept = fields(right.text)
    assert kept["csv"] == CSV and kept.pop("csrf") and kept["update"] == "true"
    done = admin.post("/import", dict(kept))
    assert done.status_code == 200 and "Eve" in done.text
    assert ("eve" in names(world)) == bool(confirm)


def test_a_file_is_kept_too(world: World, admin: Browser) -> None:  # noqa: F811
    stale(world)
    csrf = admin.csrf()

    async def upload() -> httpx.Response:
        transport = httpx.ASGITransport(world.app, client=(UNIX_PEER, 33))
        headers = {"X-Forwarded-For": "192.0.2.7", "Cookie": "; ".join(f"{k}={v}" for k, v in admin.cookies.items())}
        async with httpx.AsyncClient(transport=transport, base_url=SITE, headers=headers) as client:
            return await client.post("/import", data={"csrf": csrf}, files={"file": ("people.csv", CSV.encode())})

    asked = asyncio.run(upload())
    assert asked.status_code == 403 and json.loads(fields(asked.text)["kept"])["fields"] == [["csv", CSV]]


@pytest.mark.parametrize("kept", ["x", "[]", '{"to": 1}', '{"to": "/import"}', '{"to": "/", "fields": [["a"]]}'])
def test_a_form_that_was_damaged_is_said_to_be(admin: Browser, kept: str) -> None:  # noqa: F811
    answer = admin.post("/confirm", {"password": PASSWORD, "kept": kept})
    assert answer.status_code == 303 and answer.headers["location"] == "/"


@pytest.mark.parametrize("to", ["https://evil.test/", "//evil.test", "javascript:alert(1)", "/\\evil.test"])
def test_a_form_goes_to_no_other_site(admin: Browser, to: str) -> None:  # noqa: F811
    kept = json.dumps({"to": to, "fields": [["csrf", "theirs"], ["a", '"><script>x</script>']]})
    answer = admin.post("/confirm", {"password": PASSWORD, "kept": kept})
    assert answer.status_code == 200 and "evil.test" not in answer.text and "<script>x" not in answer.text
    assert 'action="/"' in answer.text and "theirs" not in answer.text


def test_lists_by_rest_say_what_to_do(world: World) -> None:  # noqa: F811
    token = world.token("admin", PASSWORD)
    stale(world)
    for path, body in (
        ("import", {"csv": CSV}),
        ("bulk", {"changes": [{"action": "modify", "username": "ada", "role": "admin"}]}),
    ):
        refused = world.ask("POST", f"/api/v1/users/{path}", token=token, json=body)
        assert (
            refused.status_code == 422
            and "POST /api/v1/account/proof" in refused.text
            and "diycloud login" in refused.text
        )
    proved = world.ask("POST", "/api/v1/account/proof", token=token, json={"password": PASSWORD}).json()[
        "session_token"
    ]
    assert world.ask("POST", "/api/v1/users/import", token=proved, json={"csv": CSV}).status_code == 200
