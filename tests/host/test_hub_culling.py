"""What the hub ends by itself: servers that nobody uses. One that computes is used, even if nobody looks."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests import notebooks
from tests.host.test_hub import ALICE, BOB, processes, shown, start, until
from tests.notebooks import Kernel, Notebooks
from tests.stack import Stack

pytestmark = [pytest.mark.skipif(bool(why := notebooks.why_not()), reason=why), pytest.mark.slow]


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with Notebooks(Stack(uid_min=58_200, uid_max=58_299, cgroup="dtnoteh"), "  idle_minutes: 1\n") as running:
        for name in (ALICE, BOB):
            running.user(name)
        yield running


def test_an_idle_server_ends_and_one_that_computes_goes_on(bed: Notebooks) -> None:
    with bed.browser() as browser:
        browser.sign_in(BOB, notebooks.PASSWORD)
        assert start(bed, BOB).status_code == 201
        browser.open(f"/jupyter/user/{BOB}/lab")
        kernel = Kernel(browser, f"/jupyter/user/{BOB}/")
        kernel.run(
            "def turn():\n    while True:\n        pass\nimport threading\nthreading.Thread(target=turn).start()"
        )
        kernel.close()
    assert start(bed, ALICE).status_code == 201
    began = time.monotonic()
    until(lambda: not shown(bed, ALICE), 200)
    assert time.monotonic() - began > 55
    until(lambda: not processes(ALICE))
    assert shown(bed, BOB)["ready"]
    with bed.browser() as browser:
        browser.sign_in(ALICE, notebooks.PASSWORD)
        page = browser.open(f"/jupyter/user/{ALICE}/lab")
        assert page.status_code == 424 and "not used for 1 min" in page.text, page.text
