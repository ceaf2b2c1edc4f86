"""Signing in at one platform with the account of another in Chromium: the button, both sites' forms, one's own links."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from diycloud.config import Paths
from tests.served import ADMIN, PASSWORD, Served

from .conftest import look, strict_page

FAR_PASSWORD = "their own good phrase"


def served(database: Path, prefix: Path, name: str, settings: dict[str, object] | None = None) -> Served:
    made = Served(database, prefix, tls=True, name=name)
    config = Paths(str(prefix)).config
    config.parent.mkdir(parents=True)
    server = {"host_name": name, "https_port": made.port, "strangers_per_minute": 0}
    config.write_text(json.dumps({"server": server, **(settings or {})}))
    return made


@pytest.fixture
def far(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    """The provider, under another host name: cookies of one name are every port's."""
    with served(empty_database, tmp_path / "far", "localhost") as running:
        yield running


def ask(there: Served, path: str, body: object) -> dict[str, object]:
    with httpx.Client(verify=False, base_url=f"{there.url}/api/v1") as client:
        signed = client.post("/auth/login", json={"username": ADMIN, "password": PASSWORD})
        done = client.post(path, json=body, headers={"Authorization": f"Bearer {signed.json()['token']}"})
    assert done.status_code < 300, done.text
    return dict(done.json())


@pytest.fixture
def near(far: Served, empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    assert far.certificates is not None
    provider = {
        "name": "far", "label": "The far cloud", "issuer": far.url, "client_id": "near", "create": True,
        "client_secret_file": str(tmp_path / "secret"), "ca_file": str(far.certificates / "ca.crt"),
    }  # fmt: skip
    made = served(empty_database, tmp_path / "near", "127.0.0.1", {"sign_in": {"providers": [provider]}})
    back = f"{made.url}/sign-in/with/far/back"
    issued = ask(far, "/apps", {"name": "near", "title": "The near cloud", "redirect_uris": [back]})
    (tmp_path / "secret").write_text(str(issued["secret"]))
    ask(far, "/users", {"username": "dtoufar", "password": FAR_PASSWORD, "must_change_password": False})
    with made:
        yield made


@pytest.fixture(params=[True, False], ids=["scripts", "plain"])
def page(request: pytest.FixtureRequest, browser: Browser, near: Served) -> Iterator[Page]:
    """A browser; what it refuses by a Content-Security-Policy fails the test."""
    yield from strict_page(browser, near.url, scripts=request.param)


def sign_in_there(page: Page, far: Served, password: str = FAR_PASSWORD) -> None:
    page.wait_for_url(f"{far.url}/sign-in**")
    page.get_by_label("User name").fill("dtoufar")
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def test_a_button_an_account_elsewhere_and_in(page: Page, near: Served, far: Served) -> None:
    page.goto("/account/keys")
    expect(page.get_by_role("button", name="Sign in with The far cloud")).to_be_visible()
    look(page, "sign-in", but="has no csrf")
    page.get_by_role("button", name="Sign in with The far cloud").click()
    sign_in_there(page, far)
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url(f"{near.url}/account/keys")
    page.goto("/account/identities")
    expect(page.get_by_role("heading", name="What else opens your account")).to_be_visible()
    expect(page.get_by_role("row", name="The far cloud")).to_contain_text("Unlink")
    look(page, "identities")
    page.get_by_role("button", name="Unlink").click()
    expect(page.get_by_text("This is your only way to sign in.")).to_be_visible()
    page.goto("/account")
    expect(page.get_by_role("heading", name="Choose a password")).to_be_visible()
    look(page, "first password")


def test_an_administrator_links_their_own(page: Page, near: Served, far: Served) -> None:
    page.goto("/account/identities")
    page.get_by_label("User name").fill(ADMIN)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("button", name="Link").click()
    sign_in_there(page, far)
    page.get_by_role("button", name="Allow").click()
    page.wait_for_url(f"{near.url}/account/identities")
    expect(page.get_by_text("From now on you can sign in with it.")).to_be_visible()
    expect(page.get_by_role("row", name="The far cloud")).to_contain_text("Unlink")


def test_stopping_there_is_said_here(page: Page, near: Served, far: Served) -> None:
    page.goto("/sign-in")
    page.get_by_role("button", name="Sign in with The far cloud").click()
    sign_in_there(page, far)
    page.get_by_role("link", name="Do not allow").click()
    page.wait_for_url(f"{near.url}/sign-in**")
    expect(page.get_by_text("The far cloud did not let you in, or you stopped there.")).to_be_visible()
