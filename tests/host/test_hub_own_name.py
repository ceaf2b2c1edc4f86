"""Notebooks at a host name of their own, with everything real: in from the portal, a cell, out with the portal's session."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from diycloud.notebooks import doors
from diycloud.web.identity import COOKIE
from tests import notebooks
from tests.host.hub_support import ALICE, BOB, NEEDED, running_hub, signed_in
from tests.notebooks import Notebooks
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = NEEDED


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with running_hub(ALICE, BOB, own_name=True) as running:
        yield running


@pytest.fixture
def alice(bed: Notebooks) -> Iterator[Browser]:
    with signed_in(bed, ALICE) as browser:
        yield browser


def at_lab(bed: Notebooks, browser: Browser, name: str = ALICE) -> str:
    """Open Lab as from the portal's link, at its own name; returns the base of its addresses."""
    page = browser.open(f"{bed.other_url}/jupyter/user/{name}/")
    if "/jupyter/hub/" in page.url.path:  # it does not run yet
        page = browser.open(f"{bed.other_url}/jupyter/hub/spawn")
    assert str(page.url).startswith(f"{bed.other_url}/jupyter/user/{name}/lab"), (page.url, page.text[:800])
    browser.url = bed.other_url
    return f"/jupyter/user/{name}/"


def held(browser: Browser, name: str, host: str) -> str:
    return next((c.value or "" for c in browser.client.cookies.jar if c.name == name and c.domain.startswith(host)), "")


def test_from_the_portal_to_a_cell_and_out_with_the_portals_session(bed: Notebooks, alice: Browser) -> None:
    base = at_lab(bed, alice)
    assert not held(alice, COOKIE, "localhost") and held(alice, doors.COOKIE, "localhost")
    assert not held(alice, doors.COOKIE, "127.0.0.1")
    kernel = Kernel(alice, base)
    assert kernel.run("6 * 7") == "42"
    told = kernel.run("import os; print(os.environ['JUPYTERHUB_PORTAL_URL'], os.environ['JUPYTERHUB_PUBLIC_HUB_URL'])")
    assert told.split() == [f"{bed.url}/", f"{bed.other_url}/jupyter/hub/"]
    kernel.close()
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == ALICE
    alice.url = bed.url
    page = alice.open("/account")
    assert alice.submit(page, {}).url.path == "/sign-in", "the first form of every page signs out"
    alice.url, begun = bed.other_url, time.monotonic()
    until(lambda: alice.ask("GET", f"{base}api/status").status_code == 401, 5)
    until(lambda: alice.ask("GET", "/jupyter/hub/api/user").status_code == 403, 5)
    assert time.monotonic() - begun < 5
    page = alice.open(f"{base}lab")
    assert (str(page.url).startswith(f"{bed.url}/sign-in"), page.status_code) == (True, 200)
    page = alice.submit(page, {"username": ALICE, "password": notebooks.PASSWORD})
    assert page.url.path == "/notebooks/open", "a page of its own, not a redirect that began with a form"
    assert str(alice.open(str(page.url)).url) == f"{bed.other_url}{base}lab"


def test_from_the_portals_own_form_and_link(bed: Notebooks, alice: Browser) -> None:
    page = alice.open("/notebooks")
    assert f'href="{bed.other_url}/jupyter/user/{ALICE}/"' in page.text
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert str(page.url).startswith(f"{bed.other_url}/jupyter/"), "the old address leads there"
    page = alice.open("/jupyter/hub/home")
    assert str(page.url) == f"{bed.url}/notebooks", "servers are managed at the portal"


def test_another_who_signs_in_is_not_taken_for_the_first(bed: Notebooks, alice: Browser) -> None:
    base = at_lab(bed, alice)
    alice.url = bed.url
    alice.submit(alice.open("/account"), {})
    alice.sign_in(BOB, notebooks.PASSWORD)
    alice.url = bed.other_url
    until(lambda: alice.ask("GET", f"{base}api/status").status_code == 401, 5)
    at_lab(bed, alice, BOB)
    assert alice.open(f"{base}lab").status_code == 403
    assert alice.ask("GET", "/jupyter/hub/api/user").json()["name"] == BOB


def test_who_is_disabled_is_out_within_five_seconds(bed: Notebooks) -> None:
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        base = at_lab(bed, bob, BOB)
        kernel = Kernel(bob, base)
        bed.stack.cli("user", "disable", BOB)
        begun = time.monotonic()
        try:
            until(lambda: bob.ask("GET", f"{base}api/status").status_code == 401, 5)
            until(lambda: bob.ask("GET", "/jupyter/hub/api/user").status_code == 403, 5)
            assert not kernel.is_open(5.0 - (time.monotonic() - begun))
        finally:
            bed.stack.cli("user", "enable", BOB)
            kernel.close()


# -- attacks


def test_neither_cookie_opens_the_other_name(bed: Notebooks, alice: Browser) -> None:
    base = at_lab(bed, alice)
    portal, door = held(alice, COOKIE, "127.0.0.1"), held(alice, doors.COOKIE, "localhost")
    assert portal and door and portal != door
    with bed.browser() as thief:
        for name in (COOKIE, doors.COOKIE):
            for path in ("/api/v1/auth/whoami", "/api/v1/users", "/account", "/notebooks"):
                answer = thief.client.get(f"{bed.url}{path}", headers={"Cookie": f"{name}={door}"})
                assert answer.status_code == 401 or "/sign-in" in answer.headers["location"], path
                assert ALICE not in answer.text
            asked = thief.client.get(f"{bed.other_url}{base}api/status", headers={"Cookie": f"{name}={portal}"})
            assert asked.status_code == 401
        bearer = {"Authorization": f"Bearer {door}"}
        assert thief.client.get(f"{bed.url}/api/v1/auth/whoami", headers=bearer).status_code == 401


def test_codes_of_others_and_second_times(bed: Notebooks, alice: Browser) -> None:
    def code(browser: Browser) -> str:
        begun = browser.client.get(
            f"{bed.other_url}/jupyter/_enter?next=//evil.test/", headers={"Sec-Fetch-Mode": "navigate"}
        )
        back = browser.client.get(begun.headers["location"], headers={"Sec-Fetch-Mode": "navigate"})
        return str(back.headers["location"])

    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        sent = code(bob)
        assert urlsplit(sent).netloc == urlsplit(bed.other_url).netloc
        refused = alice.client.get(sent)
        assert (refused.status_code, held(alice, doors.COOKIE, "localhost")) == (403, "")
        assert bob.client.get(sent).status_code == 403, "tried once, it is gone"
        own = code(alice)
        entered = alice.client.get(own)
        assert (entered.status_code, entered.headers["location"]) == (303, "/jupyter/")
        assert alice.client.get(own).status_code == 403
    assert "_enter?code" not in bed.stack.log("nginx") + bed.stack.log("server") + bed.stack.log("hub")


def test_scripts_of_the_notebooks_name_get_nothing_of_the_portal(bed: Notebooks, alice: Browser) -> None:
    """They are the portal's neighbours: a browser would send its cookie along where both names have one site."""
    base = at_lab(bed, alice)
    fetch = {
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-site",
        "Sec-Fetch-Dest": "empty",
        "Origin": bed.other_url,
    }
    for path in ("/account", "/notebooks/enter?bound=" + "x" * 43, "/users", "/"):
        answer = alice.client.get(f"{bed.url}{path}", headers=fetch)
        assert answer.status_code == 403 and not re.search(r'name="csrf" value="[^"]', answer.text), path
        assert "access-control-allow-origin" not in answer.headers
    assert alice.client.get(f"{bed.url}/api/v1/auth/whoami", headers=fetch).status_code == 401
    form = {**fetch, "Sec-Fetch-Mode": "navigate"}
    assert alice.client.post(f"{bed.url}/sign-out", headers=form, data={"csrf": "x"}).status_code == 403
    for path in ("/account", "/api/v1/users", "/sign-in", "/oidc/authorize"):
        assert alice.client.get(f"{bed.other_url}{path}").status_code == 404, path
    assert alice.client.get(f"{bed.url}{base}lab").status_code == 307
