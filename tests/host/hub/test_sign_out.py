"""What was begun at the hub ends with the password or the rights that it was begun with; servers and their kernels go on."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests import notebooks
from tests.host.hub_support import (
    ALICE,
    BOB,
    NEEDED,
    as_user,
    by_nginx,
    make_token,
    processes,
    server_tokens,
    shown,
    signed_in,
    start,
    stop,
)
from tests.notebooks import Notebooks
from tests.visitor import Browser, Kernel, signed_value
from tests.waiting import until

pytestmark = NEEDED
NEW = "lantern orbit velvet quartz"
WITHIN_S = 5.0
"""What the product promises, for every way there is."""


@pytest.fixture
def at_home(bed: Notebooks) -> Iterator[Browser]:
    """Alice's own browser, in her server."""
    yield from _in_lab(bed)


@pytest.fixture
def elsewhere(bed: Notebooks) -> Iterator[Browser]:
    """Another browser in which somebody is signed in as Alice."""
    yield from _in_lab(bed)


def _in_lab(bed: Notebooks) -> Iterator[Browser]:
    start(bed, ALICE)
    with signed_in(bed, ALICE) as browser:
        browser.open(f"/jupyter/user/{ALICE}/lab")
        browser.open("/jupyter/hub/token")
        yield browser


@pytest.fixture(autouse=True)
def as_before(bed: Notebooks) -> Iterator[None]:
    yield
    bed.stack.cli("user", "set-password", ALICE, "--password", "-", input=f"{notebooks.PASSWORD}\n")
    stop(bed, ALICE)


def change_password(bed: Notebooks, browser: Browser, *, keep_tokens: bool = False) -> None:
    """Change the password as the account page does."""
    csrf = re.search(r'name="csrf" value="([^"]*)"', browser.open("/account").text)
    assert csrf is not None
    values = {"csrf": csrf[1], "current": notebooks.PASSWORD, "password": NEW, "again": NEW}
    fetch = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin"}
    kept = {"keep_tokens": "true"} if keep_tokens else {}
    done = browser.client.post(f"{bed.url}/account", data={**values, **kept}, headers=fetch)
    assert (done.status_code, done.headers.get("location")) == (303, "/"), done.text


def works(browser: Browser) -> bool:
    """Tell whether Lab's own requests are answered."""
    return browser.ask("GET", f"/jupyter/user/{ALICE}/api/contents").status_code == 200


def saves(browser: Browser) -> bool:
    body = {"type": "file", "format": "text", "content": f"{time.time()}"}
    return browser.ask("PUT", f"/jupyter/user/{ALICE}/api/contents/kept.txt", body).status_code in (200, 201)


def notes(bed: Notebooks) -> list[str]:
    """Return what the tokens are called that the hub has of Alice."""
    return [token["note"] for token in bed.hub_api("GET", f"/users/{ALICE}/tokens").json()["api_tokens"]]


def test_a_changed_password(bed: Notebooks, at_home: Browser, elsewhere: Browser) -> None:
    token, theirs = make_token(at_home, ALICE), make_token(elsewhere, ALICE)
    [server_token] = server_tokens(bed, ALICE)
    kernel = Kernel(at_home, f"/jupyter/user/{ALICE}/")
    kernel.run("x = 41")
    listens = Kernel(elsewhere, f"/jupyter/user/{ALICE}/")
    before = processes(ALICE)
    assert works(at_home) and works(elsewhere)
    change_password(bed, at_home)
    began = time.monotonic()
    with httpx.Client(verify=False) as client:
        gone: list[Callable[[], bool]] = [
            lambda: bed.hub_api("GET", "/user", token=token).status_code == 403,
            lambda: bed.hub_api("GET", "/user", token=theirs).status_code == 403,
            lambda: by_nginx(bed, client, token) == 403,
            lambda: elsewhere.ask("GET", "/jupyter/hub/api/user").status_code == 403,
            lambda: elsewhere.ask("GET", f"/jupyter/user/{ALICE}/api/status").status_code in (401, 403),
        ]
        for ended in gone:
            until(ended, began + WITHIN_S - time.monotonic())
    assert not listens.is_open(max(0.1, began + WITHIN_S - time.monotonic())), "an open connection would go on for days"
    listens.close()
    assert works(at_home) and saves(at_home), "her own page goes on as if nothing had happened"
    assert kernel.run("x + 1") == "42" and processes(ALICE) == before
    kernel.close()
    again = Kernel(at_home, f"/jupyter/user/{ALICE}/")
    again.close()
    assert server_tokens(bed, ALICE) == [server_token]
    assert at_home.open("/jupyter/hub/token").url.path == "/jupyter/hub/token"
    assert bed.hub_api("GET", "/user", token=make_token(at_home, ALICE)).status_code == 200


def test_tokens_that_are_kept_with_the_portals_own(bed: Notebooks, at_home: Browser, elsewhere: Browser) -> None:
    token = make_token(at_home, ALICE)
    change_password(bed, at_home, keep_tokens=True)
    until(lambda: elsewhere.ask("GET", "/jupyter/hub/api/user").status_code == 403, WITHIN_S)
    assert bed.hub_api("GET", "/user", token=token).status_code == 200


@pytest.mark.parametrize("how", ["role", "password set", "out everywhere"])
def test_what_others_change(bed: Notebooks, at_home: Browser, how: str) -> None:
    token = make_token(at_home, ALICE)
    kernel = Kernel(at_home, f"/jupyter/user/{ALICE}/")
    kernel.run("x = 41")
    before = processes(ALICE)
    if how == "role":
        bed.stack.cli("user", "modify", ALICE, "--role", "monitor")
    elif how == "password set":
        bed.stack.cli("user", "set-password", ALICE, "--password", "-", input=f"{NEW}\n")
    else:
        bed.stack.cli("user", "sign-out", ALICE)
    began = time.monotonic()
    try:
        until(lambda: bed.hub_api("GET", "/user", token=token).status_code == 403, WITHIN_S)
        until(lambda: at_home.ask("GET", "/jupyter/hub/api/user").status_code == 403, WITHIN_S)
        until(lambda: not works(at_home), began + WITHIN_S - time.monotonic())
        assert not kernel.is_open(max(0.1, began + WITHIN_S - time.monotonic()))
        assert processes(ALICE) == before
        if how != "password set":
            time.sleep(max(0.0, began + 2.5 - time.monotonic()))  # for two seconds a server keeps the hub's word
            at_home.sign_in(ALICE, notebooks.PASSWORD)
            at_home.open(f"/jupyter/user/{ALICE}/lab")
            assert works(at_home)
            found = at_home.ask("GET", f"/jupyter/user/{ALICE}/api/kernels").json()
            assert [one["id"] for one in found] == [kernel.id], "what ran is there"
    finally:
        kernel.close()
        if how == "role":
            bed.stack.cli("user", "modify", ALICE, "--role", "user")


def test_a_server_that_runs_while_the_hub_starts_anew_keeps_its_token(bed: Notebooks, at_home: Browser) -> None:
    bed.stop_hub(signal.SIGKILL)
    bed.start_hub()
    change_password(bed, at_home)
    time.sleep(2.5)  # for so long a server keeps the hub's word
    assert len(server_tokens(bed, ALICE)) == 1 and works(at_home)


def test_a_token_that_calls_itself_a_servers_ends(bed: Notebooks, at_home: Browser) -> None:
    note, scopes = f"Server at /jupyter/user/{ALICE}/", ["users:activity!user", f"access:servers!server={ALICE}/"]
    made = at_home.ask("POST", f"/jupyter/hub/api/users/{ALICE}/tokens", {"note": note, "scopes": scopes})
    token = made.json()["token"]
    assert bed.hub_api("GET", "/user", token=token).status_code == 200
    change_password(bed, at_home)
    until(lambda: bed.hub_api("GET", "/user", token=token).status_code == 403, WITHIN_S)
    assert works(at_home)


def test_what_let_a_browser_in_to_a_server_is_no_token_for_the_hub(bed: Notebooks, at_home: Browser) -> None:
    """It is in the browser's cookie and may stay with a browser that is signed out; servers ask the hub about it themselves."""
    value = at_home.cookie(f"jupyterhub-user-{ALICE}", f"/jupyter/user/{ALICE}/")
    token = signed_value(value)
    assert as_user(bed, ALICE, f"Authorization: token {token}", "127.0.0.1") == 200
    with httpx.Client(verify=False) as client:
        assert by_nginx(bed, client, token) == 403
        assert by_nginx(bed, client, make_token(at_home, ALICE)) == 200


def test_a_hub_that_is_away_lets_nobody_in_when_it_is_back(bed: Notebooks, at_home: Browser) -> None:
    token = make_token(at_home, ALICE)
    bed.stop_hub(signal.SIGKILL)
    bed.stack.cli("user", "sign-out", ALICE)
    time.sleep(2.1)
    bed.start_hub()
    assert bed.hub_api("GET", "/user", token=token).status_code == 403, "not even once"
    until(lambda: notes(bed) == [f"Server at /jupyter/user/{ALICE}/"], WITHIN_S)
    assert shown(bed, ALICE)["ready"], "its server goes on"


def test_what_the_hub_was_not_asked_about_ends_by_itself(bed: Notebooks, at_home: Browser) -> None:
    make_token(at_home, ALICE)
    bed.stop_hub(signal.SIGKILL)
    bed.stack.cli("user", "sign-out", ALICE)
    bed.start_hub()
    until(lambda: notes(bed) == [f"Server at /jupyter/user/{ALICE}/"], 90)
    assert shown(bed, ALICE)["ready"]


def test_who_connects_anew_at_once_is_out_too(bed: Notebooks, at_home: Browser, elsewhere: Browser) -> None:
    """Nginx keeps the guard's answer for two seconds, and a script is quick."""
    lines = [Kernel(elsewhere, f"/jupyter/user/{ALICE}/")]
    works(elsewhere)  # what is kept is fresh
    change_password(bed, at_home)
    began = time.monotonic()
    while time.monotonic() - began < 4:
        with contextlib.suppress(AssertionError):
            lines.append(Kernel(elsewhere, f"/jupyter/user/{ALICE}/"))
        time.sleep(0.2)
    assert not any(line.is_open(0.2) for line in lines), len(lines)
    for line in lines:
        line.close()
    assert works(at_home)


def test_a_page_ends_nobodys_connections(bed: Notebooks, at_home: Browser) -> None:
    kernel = Kernel(at_home, f"/jupyter/user/{ALICE}/")
    for given in ({}, {"X-Notebook-Session": ""}):
        path = f"/jupyter/user/{ALICE}/diycloud/sign-out"
        assert at_home.ask("POST", path, **given).status_code == 404, "only the hub, which does not come by Nginx"
    assert kernel.is_open(1) and kernel.run("1 + 1") == "2"
    kernel.close()


def test_who_is_let_in_again_is_at_once(bed: Notebooks) -> None:
    with bed.browser() as bob, ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            bed.stack.cli("user", "disable", BOB)
            enabled = pool.submit(bed.stack.cli, "user", "enable", BOB)
            while not enabled.done():  # refused again and again, until just before
                bed.hub_api("POST", f"/users/{BOB}/server")
            enabled.result()
            assert shown(bed, BOB) or start(bed, BOB).status_code in (201, 202)
            bob.sign_in(BOB, notebooks.PASSWORD)
            page = bob.open("/jupyter/hub/token")
            assert (page.status_code, page.url.path) == (200, "/jupyter/hub/token"), page.text
            made = bob.ask("POST", f"/jupyter/hub/api/users/{BOB}/tokens", {"note": "script"})
            assert made.status_code == 201, made.text
            assert bed.hub_api("GET", "/user", token=made.json()["token"]).status_code == 200
    stop(bed, BOB)


def test_nobody_makes_tokens_without_end(bed: Notebooks) -> None:
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        bob.open("/jupyter/hub/token")
        path = f"/jupyter/hub/api/users/{BOB}/tokens"
        answers = [bob.ask("POST", path, {"note": "script"}) for _ in range(101)]
        assert answers[0].status_code == 201 and answers[-1].status_code == 403
        assert "Remove those that nobody uses" in answers[-1].json()["message"]
        made = answers[0].json()
        assert bob.ask("DELETE", f"{path}/{made['id']}").status_code == 204
        assert bob.ask("POST", path, {"note": "another"}).status_code == 201
        assert bed.hub_api("POST", f"/users/{BOB}/tokens", {"auth": {"username": BOB}}, token="none").status_code == 403
    bed.stack.cli("user", "sign-out", BOB)
    until(lambda: not bed.hub_api("GET", f"/users/{BOB}/tokens").json()["api_tokens"], WITHIN_S)
