"""Second factors in Chromium: an app's codes, passkeys of a virtual device, recovery codes; the pages' law in both themes."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from diycloud.auth import totp
from diycloud.config import Paths
from tests.served import ADMIN, PASSWORD, Served

from .conftest import CHECKS, Watched

DEVICE = {
    "protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
    "isUserVerified": True, "automaticPresenceSimulation": True,
}  # fmt: skip
"""A phone or laptop that looks who holds it (WebDriver's virtual authenticators, over the DevTools protocol)."""


@contextmanager
def visiting(browser: Browser, served: Served, *, name: str = "localhost", **options: Any) -> Iterator[Watched]:
    home = f"https://{name}:{served.port}"
    context = browser.new_context(
        ignore_https_errors=True,
        reduced_motion="reduce",
        base_url=home,
        viewport={"width": 1280, "height": 900},
        **options,
    )
    found = Watched(context.new_page(), home)
    yield found
    context.close()
    assert found.complaints == []


def add_device(page: Page) -> None:
    tools = page.context.new_cdp_session(page)
    tools.send("WebAuthn.enable")
    tools.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})


def sign_in(page: Page) -> None:
    page.goto("/sign-in")
    page.get_by_label("User name").fill(ADMIN)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def sign_out(page: Page) -> None:
    page.get_by_text("admin, your account").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()


def code_of(secret: str, ahead: int) -> str:
    return totp.code_at(secret, int(time.time()) // totp.STEP_S + ahead)


def holds_the_law(page: Page) -> None:
    """Look at the page on a desk and on a narrow phone, in the light and in the dark."""
    for theme, width in (("light", 1280), ("dark", 320)):
        page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": 800})
        found = page.evaluate(CHECKS)
        if (
            "/sign-in" in page.url
        ):  # strangers have no session, so no token of one: the browser's word guards these forms
            found = [one for one in found if not one.endswith("has no csrf")]
        assert found == [], f"{page.url} {theme}"
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


def set_up_app(page: Page) -> tuple[str, list[str]]:
    """Set up an app; returns its secret and the recovery codes."""
    page.goto("/account/second-factor")
    page.get_by_role("link", name="Set up an app").click()
    expect(page.get_by_role("img", name="QR code")).to_be_visible()
    page.get_by_text("No camera? Type the key").click()
    holds_the_law(page)
    secret = page.get_by_label("the key", exact=True).inner_text().replace(" ", "")
    page.get_by_label("Code").fill(code_of(secret, 0))
    page.get_by_role("button", name="Turn it on").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Keep these recovery codes")
    holds_the_law(page)
    codes = page.get_by_label("the recovery codes", exact=True).inner_text().split()
    page.get_by_role("link", name="I have kept them").click()
    return secret, codes


def test_an_app_and_a_passkey_in_a_minute(browser: Browser, served: Served) -> None:
    with visiting(browser, served) as visit:
        page = visit.page
        add_device(page)
        sign_in(page)
        page.goto("/account/second-factor")
        holds_the_law(page)
        secret, codes = set_up_app(page)
        page.get_by_label("Name for it").fill("this laptop")
        page.get_by_role("button", name="Add a passkey").click()
        expect(page.get_by_text("The passkey is yours")).to_be_visible()
        expect(page.get_by_text("this laptop").first).to_be_visible()
        holds_the_law(page)
        page.get_by_role("button", name="Add a passkey").click()
        expect(page.get_by_text("has a passkey for your account already")).to_be_visible()
        sign_out(page)

        holds_the_law(page)
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Hello, admin")
        sign_out(page)

        sign_in(page)
        code = page.get_by_label("Code")
        expect(code).to_be_focused()
        holds_the_law(page)
        code.fill("000000")
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_text("The code is wrong, or was used before.")).to_be_visible()
        holds_the_law(page)
        page.get_by_label("Code").fill(code_of(secret, 1))
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Hello, admin")
        sign_out(page)

        sign_in(page)
        page.get_by_role("link", name="Use a passkey").click()
        holds_the_law(page)
        page.get_by_role("button", name="Use your passkey").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Hello, admin")
        sign_out(page)

        sign_in(page)
        page.get_by_role("link", name="Use a recovery code").click()
        holds_the_law(page)
        page.get_by_label("Recovery code").fill(codes[0].upper())
        page.get_by_role("button", name="Go on").click()
        page.goto("/account/second-factor")
        expect(page.get_by_text("9 left")).to_be_visible()


def test_without_scripts(browser: Browser, served: Served) -> None:
    with visiting(browser, served, java_script_enabled=False) as visit:
        page = visit.page
        sign_in(page)
        expect(page.get_by_role("button", name="passkey")).to_have_count(0)
        page.goto("/account/second-factor")
        expect(page.get_by_text("or has scripts switched off")).to_be_visible()
        page.get_by_role("link", name="Set up an app").click()
        page.get_by_text("No camera? Type the key").click()
        secret = page.get_by_label("the key", exact=True).inner_text().replace(" ", "")
        page.get_by_label("Code").fill(code_of(secret, 0))
        page.get_by_role("button", name="Turn it on").click()
        page.get_by_role("link", name="I have kept them").click()
        sign_out(page)
        sign_in(page)
        page.get_by_label("Code").fill(code_of(secret, 1))
        page.get_by_role("button", name="Go on").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Hello, admin")


def test_under_another_name_it_says_where_passkeys_work(browser: Browser, served: Served) -> None:
    with visiting(browser, served, name="127.0.0.1") as visit:
        page = visit.page
        add_device(page)
        page.goto("/sign-in")
        expect(page.get_by_text(f"Passkeys work at https://localhost:{served.port} only.")).to_be_visible()
        expect(page.get_by_role("button", name="Sign in with a passkey")).to_be_disabled()
        holds_the_law(page)


def test_who_does_not_answer_can_try_again(browser: Browser, served: Served) -> None:
    """A device without a passkey for this portal: the browser gives up, and the page stays as it is."""
    with visiting(browser, served) as visit:
        page = visit.page
        add_device(page)
        page.goto("/sign-in")
        page.get_by_role("button", name="Sign in with a passkey").click()
        expect(page.get_by_text("Nothing was chosen, or it took too long. Try again.")).to_be_visible()
        expect(page.get_by_role("button", name="Sign in with a passkey")).to_be_enabled()


def test_a_passkey_is_a_fresh_proof(browser: Browser, served: Served, tmp_path: Path) -> None:
    with visiting(browser, served) as visit:
        page = visit.page
        add_device(page)
        sign_in(page)
        page.goto("/account/second-factor")
        page.get_by_role("button", name="Add a passkey").click()
        page.get_by_role("link", name="I have kept them").click()
        with sqlite3.connect(Paths(str(tmp_path / "server")).database) as connection:
            connection.execute("UPDATE sessions SET proved_at = 0")
        connection.close()
        page.goto("/account/tokens/new")
        expect(page.get_by_role("heading", level=1)).to_have_text("Confirm it is you")
        holds_the_law(page)
        page.get_by_role("button", name="Use your passkey").click()
        expect(page).to_have_url(f"{visit.home}/account/tokens/new")
