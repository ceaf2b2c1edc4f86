"""What the hub ends by itself: servers that nobody uses, one that computes is used; and servers that ran for long enough."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import time
from datetime import UTC, datetime, timedelta

from tests.host.hub_support import ALICE, BOB, NEEDED, processes, running_hub, shown, signed_in, start
from tests.notebooks import Notebooks
from tests.visitor import Kernel
from tests.waiting import until

pytestmark = NEEDED


def compute(bed: Notebooks, name: str) -> None:
    """Have a kernel of somebody's compute something that takes for ever; nobody looks on."""
    with signed_in(bed, name) as browser:
        browser.open(f"/jupyter/user/{name}/lab")
        kernel = Kernel(browser, f"/jupyter/user/{name}/")
        kernel.run(
            "def turn():\n    while True:\n        pass\nimport threading\nthreading.Thread(target=turn).start()"
        )
        kernel.close()


def age(bed: Notebooks, name: str, **ago: float) -> None:
    """Have the hub, which is away, remember that somebody's server was started so long ago."""
    began = datetime.now(UTC) - timedelta(**ago)
    with contextlib.closing(sqlite3.connect(bed.paths.hub_state / "jupyterhub.sqlite")) as database, database:
        done = database.execute(
            "UPDATE spawners SET started = ? WHERE user_id = (SELECT id FROM users WHERE name = ?) AND name = ''",
            (f"{began:%Y-%m-%d %H:%M:%S.%f}", name),
        )
        assert done.rowcount == 1


def what_is_told(bed: Notebooks, name: str) -> str:
    """Return what somebody reads who comes back to the server's address, and at the portal's page of notebooks."""
    with signed_in(bed, name) as browser:
        page = browser.open(f"/jupyter/user/{name}/lab")
        assert page.status_code == 424, page.text
        return page.text + browser.open("/notebooks").text


def test_an_idle_server_ends_and_one_that_computes_goes_on() -> None:
    with running_hub(ALICE, BOB, settings="  idle_minutes: 1\n") as running:
        assert start(running, BOB).status_code == 201
        compute(running, BOB)
        assert start(running, ALICE).status_code == 201
        began = time.monotonic()
        until(lambda: not shown(running, ALICE), 200)
        assert time.monotonic() - began > 55
        until(lambda: not processes(ALICE))
        assert shown(running, BOB)["ready"]
        assert what_is_told(running, ALICE).count("It was stopped because it was not used for 1 min.") == 2
        assert '\ndiycloud_notebook_stops_total{reason="idle"} 1.0\n' in running.stack.cli("metrics").stdout


def test_a_server_ends_at_its_longest_age_though_it_is_used() -> None:
    with running_hub(ALICE, BOB, settings="  max_hours: 2\n  idle_minutes: 0\n") as running:
        for name in (ALICE, BOB):
            assert start(running, name).status_code == 201
        compute(running, ALICE)
        running.stop_hub(signal.SIGKILL)
        age(running, ALICE, hours=2, seconds=1)
        age(running, BOB, hours=2, minutes=-2)
        running.start_hub()
        until(lambda: not shown(running, ALICE))
        until(lambda: not processes(ALICE))
        assert shown(running, BOB)["ready"], "two minutes are left"
        assert what_is_told(running, ALICE).count("It was stopped because it ran for 2 h.") == 2
        ended = running.stack.json("notebook", "list", ALICE)["activity"][0]
        assert (ended["outcome"], ended["by"], ended["reason"]) == (
            "stopped", "the hub", "It was stopped because it ran for 2 h.",
        )  # fmt: skip
        assert start(running, ALICE).status_code == 201, "it may be started again at once"
        assert running.stack.json("notebook", "list", ALICE)["servers"][0]["state"] == "running"
