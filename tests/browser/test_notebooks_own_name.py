"""Notebooks at a host name of their own, in Chromium: there and back, and what a page there sees of the portal."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from diycloud.notebooks import doors
from diycloud.web.identity import COOKIE
from tests.conftest import cannot_run
from tests.notebooks import PASSWORD, Notebooks, why_not
from tests.stack import Stack

from .test_notebooks import DESK, SLOW_MS, run_cell, visiting
from .test_portal import sign_in

pytestmark = pytest.mark.slow
ADA = "dthcada"
TRIES = """async (portal) => {
    const told = {};
    const attempt = async (name, action) => {
        try { told[name] = String(await action()).slice(0, 200); } catch (error) { told[name] = "refused"; }
    };
    for (const path of ["/", "/account", "/api/v1/auth/whoami", "/notebooks?fragment=1", "/sign-in"]) {
        await attempt(path, async () => (await fetch(portal + path, {credentials: "include"})).text());
    }
    await attempt("blind", async () => (await fetch(portal + "/account", {credentials: "include", mode: "no-cors"})).text());
    await attempt("write", async () => {
        const body = new URLSearchParams({csrf: "x"});
        return (await fetch(portal + "/sign-out", {method: "POST", credentials: "include", mode: "no-cors", body})).text();
    });
    const frame = document.createElement("iframe");
    frame.src = portal + "/account";
    document.body.append(frame);
    await new Promise((done) => { frame.onload = done; setTimeout(done, 5000); });
    await attempt("frame", () => frame.contentWindow.document.body.innerHTML);
    document.cookie = "__Host-diycloud=evil; Secure; Path=/; Domain=" + new URL(portal).hostname;
    await attempt("cookies", () => document.cookie.split("; ").filter((one) => one.startsWith("__Host-")).join());
    return told;
}"""


@pytest.fixture(scope="module")
def notebooks() -> Iterator[Notebooks]:
    reason = cannot_run() or why_not()
    if reason:
        pytest.skip(reason)
    with Notebooks(Stack(uid_min=31_200, uid_max=31_249, cgroup="dthc"), own_name=True) as running:
        running.user(ADA, "--cpu", "1.5", "--memory", "1G")
        yield running


def test_there_and_back(browser: Browser, notebooks: Notebooks) -> None:
    with visiting(browser, notebooks, **DESK) as visit:
        page = visit.page
        sign_in(page, ADA, PASSWORD)
        tile = page.locator(".tile", has=page.get_by_role("heading", name=re.compile("Notebooks")))
        tile.get_by_role("button", name=re.compile("^Start")).click()  # a form: what it leads to is another host
        at_lab = re.compile(rf"^{re.escape(notebooks.other_url)}/jupyter/user/{ADA}/lab")
        page.wait_for_url(at_lab, timeout=SLOW_MS)
        held = {(one["name"], one["domain"]) for one in page.context.cookies() if one["name"].startswith("__Host-")}
        assert held == {(COOKIE, "127.0.0.1"), (doors.COOKIE, "localhost"), (doors.HALF, "localhost")}
        page.locator(".jp-LauncherCard[data-category='Notebook']").first.click(timeout=SLOW_MS)
        run_cell(page, "print(6 * 7)")
        expect(page.locator(".jp-OutputArea-output").first).to_have_text("42", timeout=SLOW_MS)

        told = page.evaluate(TRIES, notebooks.url)
        seen = {name: text for name, text in told.items() if text not in ("refused", "")}
        assert seen == {}, seen

        portal = page.context.new_page()
        portal.goto("/account")
        expect(portal).to_have_url(re.compile("/account$"))
        portal.evaluate("document.querySelector('form[action=\"/sign-out\"]').submit()")
        expect(portal).to_have_url(re.compile("/sign-in"))
        page.wait_for_timeout(2500)
        page.goto(f"{notebooks.other_url}/jupyter/user/{ADA}/lab")
        expect(page).to_have_url(re.compile(rf"^{re.escape(notebooks.url)}/sign-in"))
        page.get_by_label("User name").fill(ADA)
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.wait_for_url(at_lab, timeout=SLOW_MS)
        expect(page.locator(".jp-Notebook, .jp-Launcher").first).to_be_visible(timeout=SLOW_MS)
