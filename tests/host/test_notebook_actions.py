"""notebook.start, notebook.stop and notebook.list by REST and command line, with the real hub behind them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import notebooks
from tests.host.hub_support import ALICE, BOB, BOSS, NEEDED, at_the_start, own, processes, running_hub, shown
from tests.notebooks import Notebooks
from tests.stack import ROOT
from tests.waiting import until

pytestmark = NEEDED
SETTINGS = """\
  named_servers: 1
  start_seconds: 30
  profiles:
    whole: {}
    small: {cpu: 0.5, memory: 300M}
"""
Rest = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with running_hub(ALICE, BOB, settings=SETTINGS) as running:
        yield running


@pytest.fixture(scope="module")
def rest(bed: Notebooks) -> Rest:
    """Ask about the notebooks of somebody, as themselves or as another."""
    tokens: dict[str, dict[str, str]] = {}

    def ask(method: str, name: str, body: object = None, *, by: str = "") -> tuple[int, Any]:
        by = by or name
        tokens[by] = tokens.get(by) or own(bed, by)
        status, _, answer = bed.stack.http(method, f"/api/v1/users/{name}/notebooks", body, headers=tokens[by])
        return status, answer

    return ask


@pytest.fixture(autouse=True)
def nothing_runs(bed: Notebooks) -> Iterator[None]:
    yield
    for name in (ALICE, BOB):
        bed.stack.cli("notebook", "stop", name, "--everything")
        until(lambda name=name: not processes(name))


def first(rest: Rest, name: str) -> dict[str, Any]:
    status, found = rest("GET", name)
    assert (status, found["warnings"]) == (200, []), found
    return found["servers"][0]


def test_start_see_and_stop_by_rest(bed: Notebooks, rest: Rest) -> None:
    assert first(rest, ALICE)["state"] == "stopped"
    status, started = rest("POST", ALICE, {"profile": "small"})
    assert (status, started["state"], started["address"]) == (200, "running", f"/jupyter/user/{ALICE}/"), started
    assert len(processes(ALICE)) == 1 and shown(bed, ALICE)["ready"]
    seen = first(rest, ALICE)
    assert (seen["state"], seen["profile"]) == ("running", "small")
    assert seen["memory"] > 1 << 20 and seen["tasks"] >= 2 and seen["started_at"]
    [server] = processes(ALICE)
    status, again = rest("POST", ALICE, {})
    assert (status, again["state"]) == (200, "running"), "one that runs is fine"
    assert processes(ALICE) == [server]

    status, named = rest("POST", ALICE, {"server_name": "second"})
    assert (status, named["address"]) == (200, f"/jupyter/user/{ALICE}/second/")
    assert len(processes(ALICE)) == 2
    status, full = rest("POST", ALICE, {"server_name": "third"})
    assert status == 409 and "already has the maximum of 1 named servers" in full["detail"], full

    assert rest("DELETE", ALICE, {"server_name": "second"})[0] == 200
    assert processes(ALICE) == [server]
    status, stopped = rest("DELETE", ALICE, {})
    assert (status, stopped["warnings"]) == (200, [])
    assert processes(ALICE) == [] and not shown(bed, ALICE)
    assert rest("DELETE", ALICE, {})[0] == 200, "as often as one likes"
    _, found = rest("GET", ALICE)
    assert [one["outcome"] for one in found["activity"]] == ["stopped", "stopped", "started", "started"]
    assert found["activity"][0]["seconds"] > 0 and found["activity"][0]["by"] == ""


def test_start_see_and_stop_by_command_line(bed: Notebooks) -> None:
    """As somebody else, from anywhere: signed in at the portal's address with an API token of their own."""
    token = bed.stack.token(ALICE, notebooks.PASSWORD)

    def cli(*words: str, ok: int = 0) -> str:
        environ = {**os.environ, "PYTHONPATH": f"{ROOT}/src", "DIYCLOUD_URL": bed.url, "DIYCLOUD_TOKEN": token,
                   "DIYCLOUD_CA": str(bed.stack.prefix / "nginx/ca.crt")}  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "diycloud.cli.main", *words],
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == ok, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert f"It runs. In a browser where you are signed in: /jupyter/user/{ALICE}/" in cli(
        "notebook", "start", ALICE, "--profile", "whole"
    )
    assert len(processes(ALICE)) == 1
    row = next(line for line in cli("notebook", "list", ALICE).splitlines() if line.startswith("(first)"))
    assert "running" in row and "whole" in row
    assert "has ended" in cli("notebook", "stop", ALICE)
    assert processes(ALICE) == []
    cli("notebook", "start", ALICE)
    assert " whole " in cli("notebook", "list", ALICE), "as the last time, where nothing is said"
    cli("notebook", "stop", ALICE)
    assert "profile" in cli("notebook", "start", ALICE, "--profile", "huge", ok=2)
    assert cli("notebook", "start", BOB, ok=4)


def test_a_start_of_what_there_is_not_names_what_there_is(bed: Notebooks, rest: Rest) -> None:
    for sent, field, words in (
        ({"profile": "huge"}, "profile", "whole, small"), ({"server_name": "../x"}, "server_name", "a–z"),
        ({"image": "evil"}, "image", ""),
    ):  # fmt: skip
        status, refused = rest("POST", ALICE, sent)
        assert status == 422, refused
        [fault] = refused["errors"]
        assert fault["field"] == field and words in fault["message"] + fault.get("rule", ""), refused
    assert processes(ALICE) == [] and not shown(bed, ALICE)


def test_only_its_owner_starts_a_server_and_administrators_stop_it(bed: Notebooks, rest: Rest) -> None:
    assert rest("POST", ALICE, {}, by=BOSS)[0] == 403
    assert rest("POST", ALICE, {}, by=BOB)[0] in (403, 404)
    assert rest("POST", ALICE, {})[0] == 200
    assert rest("DELETE", ALICE, {}, by=BOB)[0] in (403, 404)
    assert len(processes(ALICE)) == 1
    assert rest("GET", ALICE, by=BOSS)[1]["servers"][0]["state"] == "running"
    assert rest("DELETE", ALICE, {}, by=BOSS)[0] == 200
    assert processes(ALICE) == []
    until(lambda: rest("GET", ALICE)[1]["activity"][0]["by"] == BOSS)


def test_a_start_that_takes_a_while_is_under_way_and_can_be_stopped(bed: Notebooks, rest: Rest) -> None:
    with at_the_start(ALICE, "import time; time.sleep(100)"):
        status, started = rest("POST", ALICE, {})  # answered after the hub's ten seconds
        assert (status, started["state"]) == (200, "starting"), started
        assert first(rest, ALICE)["state"] == "starting"
        assert rest("DELETE", ALICE, {})[0] == 200
        until(lambda: first(rest, ALICE)["state"] in ("stopped", "failed"))
        assert processes(ALICE) == []
    assert rest("POST", ALICE, {})[1]["state"] == "running"


def test_while_the_hub_is_away_a_start_says_so_and_a_stop_is_done(bed: Notebooks, rest: Rest) -> None:
    assert rest("POST", ALICE, {})[0] == 200
    bed.stop_hub()
    try:
        status, refused = rest("POST", BOB, {})
        assert (status, refused["code"]) == (503, "unavailable"), refused
        assert "The notebooks' hub does not answer." in refused["detail"] and "diycloud up" in str(refused), refused
        status, found = rest("GET", ALICE)
        assert (status, found["servers"][0]["state"]) == (200, "running"), "what runs is known without it"
        assert "cannot be told: The notebooks' hub does not answer." in found["warnings"][0]
        status, stopped = rest("DELETE", ALICE, {})
        assert (status, processes(ALICE)) == (200, [])
        assert "The hub will notice later" in stopped["warnings"][0]
    finally:
        bed.start_hub()
    until(lambda: rest("POST", BOB, {})[0] == 200)
    until(lambda: not shown(bed, ALICE))


def test_while_the_agent_is_away_a_start_fails_with_what_to_do(bed: Notebooks, rest: Rest) -> None:
    assert rest("POST", ALICE, {})[0] == 200
    assert rest("DELETE", ALICE, {})[0] == 200
    bed.stack.stop_agent()
    try:
        status, refused = rest("POST", ALICE, {})
        assert status == 503 and "agent" in refused["detail"], refused
    finally:
        bed.stack.start_agent()
    until(lambda: rest("POST", ALICE, {})[0] == 200)
