"""The hub with `notebooks.sign_in: pam`: its own form, for the account's password, which the server compares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import notebooks
from tests.host.hub_support import ALICE, NEEDED, running_hub
from tests.notebooks import Notebooks
from tests.visitor import Browser

pytestmark = NEEDED


@pytest.fixture(scope="module")
def bed() -> Iterator[Notebooks]:
    with running_hub(ALICE, settings="  sign_in: pam\n") as running:
        yield running


def fill(browser: Browser, password: str, name: str = ALICE) -> int:
    page = browser.open("/jupyter/hub/token")
    assert page.url.path == "/jupyter/hub/login", page.url
    return browser.submit(page, {"username": name, "password": password, "code": ""}).status_code


def test_the_accounts_password_opens_the_hub(bed: Notebooks) -> None:
    with bed.browser() as browser:
        assert fill(browser, notebooks.PASSWORD) == 200
        assert browser.ask("GET", "/jupyter/hub/api/user").json()["name"] == ALICE


def test_a_wrong_one_does_not(bed: Notebooks) -> None:
    with bed.browser() as browser:
        assert fill(browser, "something else altogether") == 403
        assert fill(browser, notebooks.PASSWORD, "dtnhnobody") == 403
        assert browser.ask("GET", "/jupyter/hub/api/user").status_code == 403


def test_guessing_is_slowed_down(bed: Notebooks) -> None:
    with bed.browser() as browser:
        answers = [fill(browser, f"guess number {number}", "dtnhguess") for number in range(30)]
    assert 429 in answers, answers
