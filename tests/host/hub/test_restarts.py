"""The hub, the agent and the portal's server are killed and start again: no server is lost, doubled or left behind."""

from __future__ import annotations

import http.client
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from tests import notebooks
from tests.host.hub_support import ALICE, BOB, CLASS, NEEDED, make_token, processes, shown, start, stop
from tests.notebooks import Notebooks
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = NEEDED


def test_a_killed_hub_loses_and_doubles_nothing(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE)
    alice.open(f"/jupyter/user/{ALICE}/lab")
    kernel = Kernel(alice, f"/jupyter/user/{ALICE}/")
    kernel.run("x = 41")
    before = processes(ALICE)
    bed.stop_hub(signal.SIGKILL)
    assert kernel.run("x + 1") == "42"
    time.sleep(3)  # longer than the hub's word counts while it answers
    saved = alice.ask(
        "PUT", f"/jupyter/user/{ALICE}/api/contents/saved.txt", {"type": "file", "format": "text", "content": ""}
    )
    assert saved.status_code in (200, 201), saved.text
    unknown = alice.ask("GET", f"/jupyter/user/{ALICE}/api/contents", Authorization="token of-nobody")
    assert unknown.status_code == 500, "nobody has vouched for it"
    bed.start_hub()
    assert kernel.run("x + 2") == "43"
    assert shown(bed, ALICE)["ready"] and processes(ALICE) == before
    assert alice.open("/jupyter/").url.path == f"/jupyter/user/{ALICE}/lab"
    kernel.close()


def test_a_hub_killed_while_ten_are_starting(bed: Notebooks) -> None:
    for name in CLASS:
        bed.hub_api("POST", f"/users/{name}")
    with ThreadPoolExecutor(len(CLASS)) as pool:
        asked = [pool.submit(ask_quietly, bed, name) for name in CLASS]
        time.sleep(0.6)
        bed.stop_hub(signal.SIGKILL)
        for one in asked:
            one.result()
    bed.start_hub()
    with ThreadPoolExecutor(len(CLASS)) as pool:
        list(pool.map(lambda name: ask_quietly(bed, name), CLASS))
    for name in CLASS:
        until(lambda name=name: shown(bed, name).get("ready"), 60)
        assert len(processes(name)) == 1, name
    for name in CLASS:
        stop(bed, name)
        until(lambda name=name: not processes(name))


def ask_quietly(bed: Notebooks, name: str) -> None:
    try:
        bed.hub_api("POST", f"/users/{name}/server", {})
    except (OSError, http.client.HTTPException):
        pass  # the hub was killed meanwhile


def test_servers_that_the_hub_does_not_know_are_stopped(bed: Notebooks) -> None:
    start(bed, ALICE)
    bed.stop_hub()
    assert processes(ALICE)  # a hub that is stopped in order leaves them, too
    for file in bed.paths.hub_state.glob("jupyterhub.sqlite*"):
        file.unlink()
    bed.start_hub()
    until(lambda: not processes(ALICE), 90)


def lately(bed: Notebooks, name: str) -> list[dict[str, str]]:
    """Return what the portal tells of a user's servers, the newest first."""
    return bed.stack.json("notebook", "list", name)["activity"]


def test_what_died_while_the_hub_was_down_is_gone_from_its_list(bed: Notebooks) -> None:
    start(bed, ALICE)
    bed.stop_hub(signal.SIGKILL)
    for server in processes(ALICE):
        os.kill(server, signal.SIGKILL)
    until(lambda: not processes(ALICE))
    bed.start_hub()
    until(lambda: not shown(bed, ALICE))
    until(lambda: [one["outcome"] for one in lately(bed, ALICE)[:2]] == ["failed", "started"])
    assert start(bed, ALICE).status_code == 201
    stop(bed, ALICE)


def test_a_hub_that_starts_while_the_agent_is_away_keeps_servers(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE)
    before = processes(ALICE)
    bed.stop_hub(signal.SIGKILL)
    bed.stack.stop_agent(signal.SIGKILL)
    bed.start_hub()
    assert shown(bed, ALICE)["ready"]
    bed.stack.start_agent()
    until(lambda: alice.open(f"/jupyter/user/{ALICE}/lab").status_code == 200)
    assert processes(ALICE) == before


def test_a_server_of_the_portals_that_is_away_for_a_moment_throws_nobody_out(bed: Notebooks) -> None:
    start(bed, BOB)
    with bed.browser() as bob:
        bob.sign_in(BOB, notebooks.PASSWORD)
        token = make_token(bob, BOB)
        assert bed.hub_api("GET", "/user", token=token).status_code == 200
        bed.stack.stop_server(signal.SIGKILL)
        try:
            time.sleep(2)
            assert bed.hub_api("GET", "/user", token=token).status_code == 200
        finally:
            bed.stack.start_server()
    stop(bed, BOB)


def test_a_hub_that_is_stopped_tells_what_it_has_just_done(bed: Notebooks) -> None:
    assert start(bed, BOB).status_code == 201
    stop(bed, BOB)
    assert start(bed, BOB).status_code == 201
    bed.stop_hub()
    try:
        assert [one["outcome"] for one in lately(bed, BOB)[:3]] == ["started", "stopped", "started"]
    finally:
        bed.start_hub()
    stop(bed, BOB)
