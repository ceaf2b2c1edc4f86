"""From the portal to a result: Chromium, Nginx with TLS, the server, the hub, the agent, the launcher, JupyterLab, a kernel.

DIYCLOUD_SHOTS names a folder for pictures of the pages, at a desk and on a phone.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import cannot_run
from tests.notebooks import PASSWORD, Notebooks, why_not
from tests.stack import Stack

from .conftest import CHECKS, Watched
from .test_portal import sign_in

pytestmark = pytest.mark.slow

PROFILES = """  profiles:
    small:
      title: Small
      cpu: 0.5
      memory: 512M
    large:
      title: Large
      memory: 900M
"""
DESK = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
PHONE = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "is_mobile": True, "has_touch": True}
SLOW_MS = 60_000
"""Lab's scripts are large, and the machine that runs the tests runs all of the rest as well."""


@pytest.fixture(scope="module")
def notebooks() -> Iterator[Notebooks]:
    reason = cannot_run() or why_not()
    if reason:
        pytest.skip(reason)
    with Notebooks(Stack(uid_min=58_600, uid_max=58_639, cgroup="dtnotebb"), settings=PROFILES) as running:
        for name in ("dtnbada", "dtnbben"):
            running.user(name, "--cpu", "1.5", "--memory", "1G")
        yield running


@contextmanager
def visiting(browser: Browser, notebooks: Notebooks, **options: object) -> Iterator[Watched]:
    """Yield a browser of its own, nobody signed in."""
    context = browser.new_context(
        ignore_https_errors=True,
        reduced_motion="reduce",
        base_url=notebooks.url,
        **options,  # type: ignore[arg-type]
    )
    context.set_default_timeout(SLOW_MS)
    yield Watched(context.new_page(), notebooks.url)
    context.close()


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("DIYCLOUD_SHOTS"):
        page.screenshot(path=str(Path(folder) / f"notebooks-{name}.png"), full_page=True)


def is_sound(page: Page) -> None:
    """Fail for what every page of the platform's must not have: too small targets, overflow, labels that miss."""
    found = page.evaluate(CHECKS)
    found = [told for told in found if not ("_xsrf=" in told and told.endswith("has no csrf"))]  # the hub's own way
    assert not found, found


def run_cell(page: Page, code: str) -> None:
    """Type into the first cell of the notebook that is open, and run it."""
    expect(page.get_by_role("button", name=re.compile(r"\| Idle"))).to_be_visible(timeout=SLOW_MS)
    editor = page.locator(".jp-Notebook .jp-Cell .cm-content").last
    editor.click()
    page.keyboard.insert_text(code)
    expect(editor).to_have_text(code)
    page.keyboard.press("Shift+Enter")


def test_from_the_portal_to_a_result(browser: Browser, notebooks: Notebooks) -> None:
    with visiting(browser, notebooks, **DESK) as visit:
        page = visit.page
        sign_in(page, "dtnbada", PASSWORD)
        tile = page.locator(".tile", has=page.get_by_role("heading", name=re.compile("Notebooks")))
        expect(tile).to_contain_text("not running")
        is_sound(page)
        shoot(page, "home-desk")
        tile.get_by_label("Size").select_option("large")
        tile.get_by_role("button", name=re.compile("^Start")).click()
        page.wait_for_url(re.compile(r"/jupyter/user/dtnbada/lab"), timeout=SLOW_MS)
        page.locator(".jp-LauncherCard[data-category='Notebook']").first.click(timeout=SLOW_MS)
        run_cell(page, "print(6 * 7)")
        output = page.locator(".jp-OutputArea-output")
        expect(output.first).to_have_text("42", timeout=SLOW_MS)
        # The limit of the size, of which this server uses some, and not the machine's.
        expect(page.get_by_label("Top Bar")).to_contain_text(re.compile(r"Memory: \d+ / 900 MB"), timeout=SLOW_MS)
        expect(page.locator(".jp-DirListing-item", has_text="notebooks").first).to_be_visible()
        shoot(page, "lab-desk")
        page.get_by_role("button", name=re.compile("^Save and create checkpoint")).click()
        page.get_by_role("button", name="Rename").click()  # Lab asks for a name at the first time
        expect(page.get_by_role("button", name="Rename")).to_be_hidden()
        assert not [told for told in visit.complaints if told.startswith("outside request")], visit.complaints

        page.goto("/")
        tile = page.locator(".tile", has=page.get_by_role("heading", name=re.compile("Notebooks")))
        expect(tile).to_contain_text("running")
        expect(tile).to_contain_text("of your memory")
        page.goto("/notebooks")
        expect(page.get_by_role("heading", level=1)).to_have_text("Notebooks")
        is_sound(page)
        shoot(page, "page-desk")
        page.get_by_role("link", name=re.compile("^Open")).first.click()
        expect(page.locator(".jp-OutputArea-output").first).to_have_text(
            "42", timeout=SLOW_MS
        )  # the same server, the same page

        page.goto("/notebooks")
        page.get_by_role("button", name=re.compile("^Stop")).first.click()
        expect(page.locator(".server").first).to_contain_text("not running", timeout=SLOW_MS)
        left = subprocess.run(["pgrep", "-u", "dtnbada"], capture_output=True, text=True, check=False).stdout.split()
        assert left == []


def test_a_start_asks_for_the_size_first(browser: Browser, notebooks: Notebooks) -> None:
    with visiting(browser, notebooks, **DESK) as visit:
        page = visit.page
        page.goto("/jupyter/")
        expect(page).to_have_url(re.compile("/sign-in"))
        page.get_by_label("User name").fill("dtnbben")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Start a notebook")
        is_sound(page)
        shoot(page, "spawn-desk")
        page.get_by_label(re.compile("Small")).check()
        page.get_by_role("button", name="Start").click()
        page.locator(".jp-LauncherCard[data-category='Notebook']").first.wait_for(timeout=SLOW_MS)
        shown = page.request.get("/jupyter/user/dtnbben/api/metrics/v1")
        assert shown.ok, shown.text()
        limits = shown.json()["limits"]
        assert (limits["memory"]["rss"], limits["cpu"]["cpu"]) == (512 << 20, 0.5)


def test_on_a_phone(browser: Browser, notebooks: Notebooks) -> None:
    with visiting(browser, notebooks, **PHONE) as visit:
        page = visit.page
        sign_in(page, "dtnbada", PASSWORD)
        tile = page.locator(".tile", has=page.get_by_role("heading", name=re.compile("Notebooks")))
        expect(tile).to_be_visible()
        is_sound(page)
        shoot(page, "home-phone")
        page.goto("/notebooks")
        is_sound(page)
        shoot(page, "page-phone")
        page.goto("/jupyter/hub/spawn")
        expect(page.get_by_role("heading", level=1)).to_have_text("Start a notebook")
        is_sound(page)
        shoot(page, "spawn-phone")
        page.goto("/jupyter/hub/not-there")
        is_sound(page)
        shoot(page, "missing-phone")


def test_what_goes_wrong_is_told_on_pages_of_the_platforms(browser: Browser, notebooks: Notebooks) -> None:
    with visiting(browser, notebooks, **PHONE) as visit:
        page = visit.page
        sign_in(page, "dtnbben", PASSWORD)
        for address, told in (
            ("/jupyter/user/dtnbada/lab", "These notebooks are somebody else’s"),
            ("/jupyter/hub/admin", "This is not yours to do"),
            ("/jupyter/hub/spawn/dtnbada", "There is nothing here"),
        ):
            page.goto(address)
            expect(page.get_by_role("heading", level=1)).to_have_text(told)
            assert "scope" not in page.content() and not is_wider(page)
            expect(page.get_by_role("link", name=re.compile("^Your (own )?notebooks"))).to_have_attribute(
                "href", "/notebooks"
            )
        page.goto("/jupyter/hub/token")
        expect(page.get_by_role("button", name="Request new API token")).to_be_visible()
        expect(page.get_by_role("link", name=re.compile("DIY Cloud"))).to_have_attribute("href", "/")
        assert not is_wider(page)
        shoot(page, "tokens-phone")


def test_a_start_that_fails_says_why(browser: Browser, notebooks: Notebooks) -> None:
    password = notebooks.user("dtnbcleo")
    home = Path(pwd.getpwnam("dtnbcleo").pw_dir)
    home.chmod(0)
    with visiting(browser, notebooks, **PHONE) as visit:
        page = visit.page
        sign_in(page, "dtnbcleo", password)
        page.goto("/jupyter/hub/spawn")
        page.get_by_label(re.compile("Small")).check()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("alert")).to_contain_text("cannot be entered")
        page.goto("/jupyter/user/dtnbcleo/lab")
        expect(page.get_by_role("heading", level=1)).to_have_text("Your notebook did not start")
        assert not is_wider(page)
        is_sound(page)
        shoot(page, "failed-phone")
        page.goto("/notebooks")
        page.get_by_text("Its last lines").click()
        expect(page.locator(".log pre")).to_contain_text(f"{home} cannot be entered")
        is_sound(page)


def is_wider(page: Page) -> bool:
    """Tell whether a page is wider than its window."""
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))
