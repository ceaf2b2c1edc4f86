"""Servers that the hub starts: their sizes, names and tokens, and what is told of one that was killed."""

from __future__ import annotations

import os
import signal

from tests.host.hub_support import ALICE, NEEDED, at_the_start, own, processes, server_tokens, shown, start, stop
from tests.notebooks import Notebooks
from tests.visitor import Browser, Kernel
from tests.waiting import until

pytestmark = NEEDED


def test_profiles_are_those_of_the_settings(bed: Notebooks) -> None:
    for options in ({"profile": "huge"}, {"profile": "boxed"}, {"image": "evil"}, {"profile": ["whole"]}):
        refused = bed.hub_api("POST", f"/users/{ALICE}/server", options)
        assert refused.status_code == 400 and "There " in refused.json()["message"], refused.text
    assert start(bed, ALICE, profile="small").status_code == 201
    assert shown(bed, ALICE)["user_options"] == {"profile": "small"}
    stop(bed, ALICE)


def test_named_servers_run_beside_the_first(bed: Notebooks, alice: Browser) -> None:
    assert start(bed, ALICE).status_code == 201
    assert start(bed, ALICE, "second").status_code == 201
    assert len(processes(ALICE)) == 2
    base = f"/jupyter/user/{ALICE}/second/"
    assert alice.open(f"{base}lab").url.path == f"{base}lab"
    kernel = Kernel(alice, base)
    assert kernel.run("1 + 1") == "2"
    kernel.close()
    stop(bed, ALICE, "second")
    assert len(processes(ALICE)) == 1
    assert start(bed, ALICE, "third").status_code == 201
    stop(bed, ALICE, "third")
    assert bed.hub_api("POST", f"/users/{ALICE}/servers/fourth", {}).status_code == 400  # two beside the first
    for name in ("second", "third"):
        bed.hub_api("DELETE", f"/users/{ALICE}/servers/{name}", {"remove": True})


def test_a_server_that_somebody_killed_is_told_of(bed: Notebooks, alice: Browser) -> None:
    start(bed, ALICE, profile="small")
    alice.open(f"/jupyter/user/{ALICE}/lab")
    [server] = processes(ALICE)
    os.kill(server, signal.SIGKILL)
    until(lambda: not shown(bed, ALICE), 15)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and "ended by signal 9" in page.text, page.text
    assert f"/jupyter/hub/spawn/{ALICE}" in page.text


EAT = "b = bytearray(600 << 20); b[::4096] = b'x' * len(b[::4096])"
FOR_MEMORY = (
    "It was killed because your memory was used up. Close what you do not need, or choose more, and start it again."
)


def test_a_server_that_is_killed_for_memory_is_told_of_as_such(bed: Notebooks, alice: Browser) -> None:
    """Killed by the kernel, within its profile's 300 MiB: the hub's page, the portal's page and its list say so."""
    with at_the_start(ALICE, f"import threading\nthreading.Timer(2, lambda: exec({EAT!r})).start()\n"):
        assert start(bed, ALICE, profile="small").status_code == 201
    until(lambda: not shown(bed, ALICE), 30)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and FOR_MEMORY in page.text, page.text
    portal = alice.open("/notebooks").text
    assert "It was ended for memory: the limit is 300M." in portal
    assert FOR_MEMORY in portal, "among what was lately"
    found = bed.stack.json("notebook", "list", ALICE)
    [server] = found["servers"]
    assert (server["state"], server["reason"]) == ("failed", "It was ended for memory: the limit is 300M.")
    assert (found["activity"][0]["outcome"], found["activity"][0]["reason"]) == ("failed", FOR_MEMORY)


def test_a_server_that_is_killed_for_memory_while_it_starts_is_told_of_as_such(bed: Notebooks, alice: Browser) -> None:
    with at_the_start(ALICE, f"print('so much to load', flush=True)\n{EAT}\n"):
        bed.hub_api("POST", f"/users/{ALICE}")
        refused = bed.hub_api("POST", f"/users/{ALICE}/server", {"profile": "small"})
        assert refused.status_code == 503 and FOR_MEMORY in refused.json()["message"], refused.text
        page = alice.open(f"/jupyter/user/{ALICE}/lab")
        assert "did not start" in page.text and FOR_MEMORY in page.text and "so much to load" in page.text, page.text
        status, _, body = bed.stack.http(
            "POST", f"/api/v1/users/{ALICE}/notebooks", {"profile": "small"}, headers=own(bed, ALICE)
        )
        assert status == 503 and FOR_MEMORY in body["detail"], body
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == ("failed", "It was ended for memory: the limit is 300M.")
    assert "so much to load" in server["log"]
    assert start(bed, ALICE, profile="small").status_code == 201, "what ended it does not keep it from starting"


def test_a_kernel_that_is_killed_for_memory_is_no_servers_end(bed: Notebooks, alice: Browser) -> None:
    """A server that ended by itself, later, is not said to have been killed for memory either."""
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {EAT!r}])\n"
    with at_the_start(ALICE, program + "import os, threading\nthreading.Timer(3, lambda: os._exit(5)).start()\n"):
        assert start(bed, ALICE, profile="small").status_code == 201
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == (
        "running",
        "A program in it was ended for memory: the limit is 300M.",
    )
    until(lambda: not shown(bed, ALICE), 30)
    page = alice.open(f"/jupyter/user/{ALICE}/lab")
    assert page.status_code == 424 and "It ended by itself with status 5." in page.text, page.text
    [server] = bed.stack.json("notebook", "list", ALICE)["servers"]
    assert (server["state"], server["reason"]) == (
        "failed",
        "It ended by itself with status 5. Its last lines say why.",
    )


def test_a_servers_token_can_little_and_ends_with_it(bed: Notebooks) -> None:
    """It tells that the server is used, and lets its own user in; a hub that was killed in between leaves none behind."""
    start(bed, ALICE)
    [scopes] = server_tokens(bed, ALICE)
    assert sorted(scopes) == [f"access:servers!server={ALICE}/", "users:activity!user"], scopes
    bed.stop_hub(signal.SIGKILL)
    bed.start_hub()
    assert len(server_tokens(bed, ALICE)) == 1
    stop(bed, ALICE)
    assert server_tokens(bed, ALICE) == []
