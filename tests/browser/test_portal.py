"""The portal itself: Chromium, our Nginx site with TLS, the server, the agent and the kernel's own files."""

from __future__ import annotations

import csv
import io
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.stack import CONTROLLERS

from .conftest import CHECKS, Watched
from .front import ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD, Front, running_front

PASSWORD = "copper lantern seven hills"


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with running_front(48_000, 48_999, "dtportal") as running:
        yield running


@contextmanager
def visiting(browser: Browser, front: Front, *, watch: bool = True, **options: object) -> Iterator[Watched]:
    """Yield a browser of its own, nobody signed in."""
    context = browser.new_context(ignore_https_errors=True, reduced_motion="reduce", base_url=front.url, **options)  # type: ignore[arg-type]
    found = Watched(context.new_page(), front.url)
    yield found
    context.close()
    if watch:
        assert found.complaints == []


def sign_in(page: Page, username: str, password: str) -> None:
    page.goto("/sign-in")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def choose_password(page: Page, current: str, new: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Choose your password")
    page.get_by_label("One-time password").fill(current)
    page.get_by_label("New password", exact=True).fill(new)
    page.get_by_label("New password again").fill(new)
    page.get_by_role("button", name="Set password").click()


@pytest.fixture(scope="module")
def admin(browser: Browser, front: Front) -> Iterator[Page]:
    """The administrator, signed in for the whole module, with the one-time password replaced."""
    with visiting(browser, front, viewport={"width": 1280, "height": 900}) as visit:
        sign_in(visit.page, ADMIN, ADMIN_ONE_TIME)
        visit.page.goto("/users")
        choose_password(visit.page, ADMIN_ONE_TIME, ADMIN_PASSWORD)
        expect(visit.page.get_by_text("Your password is changed.")).to_be_visible()
        yield visit.page


def make_user(front: Front, name: str, *more: str) -> None:
    front.stack.cli("user", "create", name, "--password", "-", *more, input=f"{PASSWORD}\n")


def test_a_forced_change_cannot_be_passed_by(browser: Browser, front: Front, admin: Page) -> None:
    one_time = front.stack.json("user", "create", "dtpforced")["password"]
    with visiting(browser, front) as visit:
        page = visit.page
        sign_in(page, "dtpforced", one_time)
        for path in ("/", "/users", "/audit"):
            page.goto(path)
            assert page.url == f"{front.url}/account"
        choose_password(page, one_time, "short")
        alert = page.get_by_role("alert")
        expect(alert).to_be_focused()
        expect(alert.get_by_role("link", name="New password")).to_be_visible()
        choose_password(page, one_time, PASSWORD)
        expect(page.get_by_role("heading", level=1)).to_contain_text("Hello, dtpforced")
        assert page.evaluate("(async () => (await fetch('/users')).status)()") == 403, "users see no list"


def test_signing_in_tells_nothing_and_leads_nowhere_else(browser: Browser, front: Front, admin: Page) -> None:
    make_user(front, "dtpknown")
    with visiting(browser, front) as visit:
        page = visit.page
        answers = []
        for name in ("dtpknown", "dtpnobody"):
            sign_in(page, name, "not the password")
            answers.append(page.get_by_role("alert").inner_text())
        assert answers[0] == answers[1]
        page.goto("/sign-in?next=//elsewhere.example/")
        page.get_by_label("User name").fill("dtpknown")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Sign in", exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Hello")
        assert page.url == f"{front.url}/"
        cookie = next(c for c in page.context.cookies() if c["name"] == "__Host-diycloud")
        assert cookie["secure"]
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Lax"


def test_a_user_is_made_with_slides_and_held_by_the_kernel(browser: Browser, front: Front, admin: Page) -> None:
    admin.goto("/new-user")
    admin.get_by_label("User name").fill("dtpada")
    admin.get_by_label("Full name").fill("Ada Lovelace")
    slide = admin.get_by_label("CPU, slider")
    slide.press("Home")
    slide.press("ArrowRight")
    slide.press("ArrowRight")
    assert admin.get_by_label("CPU", exact=True).input_value() == "0.5"
    admin.get_by_label("Memory", exact=True).fill("384M")
    admin.get_by_role("button", name="Create user").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Ada Lovelace is ready")
    one_time = admin.get_by_label("the one-time password", exact=True).inner_text()

    account = pwd.getpwnam("dtpada")
    assert account.pw_gecos.startswith("Ada Lovelace")
    quota = int(front.cgroup("cpu", "dtpada", "cpu.cfs_quota_us"))
    assert quota / int(front.cgroup("cpu", "dtpada", "cpu.cfs_period_us")) == 0.5
    assert int(front.cgroup("memory", "dtpada", "memory.limit_in_bytes")) == 384 << 20

    with visiting(browser, front) as visit:
        page = visit.page
        sign_in(page, "dtpada", one_time)
        choose_password(page, one_time, PASSWORD)
        expect(page.locator("[data-copy-text]")).to_have_text(re.compile("^ssh dtpada@"))
        expect(page.locator("[data-live-state]")).to_have_text("Live", timeout=10_000)
        with busy(front, "dtpada", account.pw_uid) as loop:
            used = page.locator("[data-gauge=cpu] [data-used]")
            expect(used).to_have_text(re.compile(r"^0\.(4\d|5)$"), timeout=15_000)
            expect(page.locator("[data-gauge=cpu]")).to_contain_text(re.compile("Close to the limit|At the limit"))

            admin.goto("/users/dtpada/edit")
            admin.get_by_label("CPU, slider").press("ArrowRight")
            assert admin.get_by_label("CPU", exact=True).input_value() == "0.75"
            admin.get_by_role("button", name="Save").click()
            expect(admin.get_by_text("The changes are in force.")).to_be_visible()
            assert loop.poll() is None, "the same process goes on"
            expect(used).to_have_text(re.compile(r"^0\.(5[1-9]|[67]\d?)$"), timeout=15_000)
            expect(page.locator("[data-gauge=cpu] [data-limit]")).to_have_text("0.75")
            admin.goto("/users/dtpada")
            expect(admin.locator("[data-gauge=cpu] [data-used]")).to_have_text(
                re.compile(r"^0\.(5[1-9]|[67]\d?)$"), timeout=15_000
            )
        changes = admin.get_by_role("table", name="What happened to dtpada")
        expect(changes.get_by_role("row").nth(1)).to_contain_text("user.modify")
        expect(changes.get_by_role("row").nth(1)).to_contain_text("0.5 → 0.75")
        expect(changes).to_contain_text("user.create")


@contextmanager
def busy(front: Front, username: str, uid: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a busy loop as a user, in the user's slice."""
    top = Path("/sys/fs/cgroup")
    tasks = [top / controller / front.stack.cgroup / username / "cgroup.procs" for controller in CONTROLLERS]

    def enter() -> None:
        for path in tasks:
            path.write_text(str(os.getpid()))
        os.setuid(uid)

    loop = subprocess.Popen(["sh", "-c", "while :; do :; done"], preexec_fn=enter)
    try:
        yield loop
    finally:
        loop.kill()
        loop.wait()


def test_every_error_of_a_form_at_once(front: Front, admin: Page) -> None:
    admin.goto("/new-user")
    for label, text in (("User name", "Root!"), ("Email", "nobody@"), ("Full name", "=1+1")):
        admin.get_by_label(label).fill(text)
    for label, text in (("CPU", "0"), ("Memory", "lots"), ("Disk", "-1G"), ("Processes", "1.5")):
        admin.get_by_label(label, exact=True).fill(text)
    admin.get_by_role("button", name="Create user").click()
    alert = admin.get_by_role("alert")
    for label in ("User name", "Full name", "Email", "CPU", "Memory", "Disk", "Processes"):
        expect(alert.get_by_role("link", name=label, exact=True)).to_be_visible()
        control = admin.get_by_label(label, exact=label in ("CPU", "Memory", "Disk", "Processes"))
        assert control.get_attribute("aria-invalid") == "true"
    assert admin.get_by_label("Memory", exact=True).input_value() == "lots"


def test_import_with_preview(front: Front, admin: Page) -> None:
    admin.goto("/import")
    rows = (
        "username,full_name,cpu,memory\ndtpone,Grace Hopper,0.5,512M\ndtp two,Alan Turing,-1,lots\ndtpone,Again,1,1G\n"
    )
    admin.get_by_label("File").set_input_files({"name": "class.csv", "mimeType": "text/csv", "buffer": rows.encode()})
    admin.get_by_role("button", name="Check the rows").click()
    bad = admin.locator("tr.has-error")
    third = bad.filter(has_text="Alan Turing")
    expect(third.locator("td").first).to_have_text("3")
    for column in ("username:", "cpu:", "memory:"):
        expect(third).to_contain_text(column)
    expect(bad.filter(has_text="Again")).to_contain_text("username:")
    expect(admin.get_by_role("button", name=re.compile("^Create"))).to_have_count(0)
    assert not any(account.pw_name == "dtpone" for account in pwd.getpwall())

    admin.get_by_role("link", name="Bring the mended file").click()
    admin.get_by_label("Or paste the text").fill(
        "username,full_name,cpu\ndtpone,Grace Hopper,0.5\ndtptwo,<b>Alan</b>,1\n"
    )
    admin.get_by_role("button", name="Check the rows").click()
    admin.get_by_role("button", name="Create 2 users").click()
    expect(admin.get_by_role("heading", level=1)).to_have_text("Import of 2 users")
    with admin.expect_download() as download:
        admin.get_by_role("link", name="Download the passwords").click()
    text = Path(download.value.path()).read_text()
    given = {row["username"]: row["password"] for row in csv.DictReader(io.StringIO(text))}
    assert given.keys() == {"dtpone", "dtptwo"}
    assert all(len(password) >= 12 for password in given.values())
    assert pwd.getpwnam("dtpone").pw_gecos.startswith("Grace Hopper")
    assert front.stack.token("dtptwo", given["dtptwo"])


def test_what_people_type_is_text_everywhere(front: Front, admin: Page) -> None:
    evil = "<img src=x onerror=document.title=1>"
    make_user(front, "dtpevil", "--full-name", evil, "--description", '"><script>document.title=1</script>')
    for path in (
        "/users?search=dtpevil",
        "/users/dtpevil",
        "/users/dtpevil/edit",
        "/audit?target=dtpevil",
        f"/users?search={evil}",
    ):
        admin.goto(path)
        assert admin.locator("img[src=x], main script").count() == 0
        assert admin.title() != "1"
    admin.goto("/users/dtpevil")
    expect(admin.get_by_role("heading", level=1)).to_have_text(evil)


def test_disable_delete_restore_purge(browser: Browser, front: Front, admin: Page) -> None:
    make_user(front, "dtpgoes")
    with visiting(browser, front, watch=False) as visit:
        sign_in(visit.page, "dtpgoes", PASSWORD)
        expect(visit.page.get_by_role("heading", level=1)).to_contain_text("Hello")
        admin.goto("/users/dtpgoes")
        admin.get_by_text("Disable", exact=True).click()
        admin.get_by_role("button", name="Disable dtpgoes").click()
        expect(admin.locator(".title-row")).to_contain_text("disabled")
        visit.page.goto("/")
        assert "/sign-in" in visit.page.url, "the open session is out at once"
        sign_in(visit.page, "dtpgoes", PASSWORD)
        expect(visit.page.get_by_role("alert")).to_be_visible()
    for button, words in (("Enable", "active"), ("Delete", "deleted"), ("Restore", "active"), ("Delete", "deleted")):
        admin.get_by_text(button, exact=True).click()
        admin.get_by_role("button", name=f"{button} dtpgoes").click()
        expect(admin.locator(".title-row")).to_contain_text(words)
    admin.get_by_text("Purge", exact=True).click()
    admin.get_by_role("link", name="See what would go").click()
    expect(admin.get_by_text("/home/dtpgoes")).to_be_visible()
    admin.get_by_label("Type dtpgoes to confirm").fill("dtpgone")
    admin.get_by_role("button", name="Purge for good").click()
    expect(admin.get_by_role("alert")).to_be_visible()
    assert pwd.getpwnam("dtpgoes")
    admin.get_by_label("Type dtpgoes to confirm").fill("dtpgoes")
    admin.get_by_role("button", name="Purge for good").click()
    expect(admin.get_by_text("dtpgoes is purged.")).to_be_visible()
    with pytest.raises(KeyError):
        pwd.getpwnam("dtpgoes")


def test_a_password_set_for_somebody(front: Front, admin: Page) -> None:
    make_user(front, "dtppass")
    admin.goto("/users/dtppass")
    admin.get_by_text("Set a password").click()
    admin.get_by_label("New password").fill("short")
    admin.get_by_role("button", name="Set password").click()
    expect(admin.get_by_label("New password")).to_have_attribute("aria-invalid", "true")
    admin.get_by_label("New password").fill("")
    admin.get_by_role("button", name="Set password").click()
    one_time = admin.get_by_label("the one-time password", exact=True).inner_text()
    assert front.stack.token("dtppass", one_time)


def test_every_real_page_holds_the_law(browser: Browser, front: Front, admin: Page) -> None:
    make_user(front, "dtplaw")
    wrong = {}
    for theme, size in (("light", {"width": 1280, "height": 900}), ("dark", {"width": 375, "height": 812})):
        admin.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        admin.set_viewport_size(size)  # type: ignore[arg-type]
        for path in ("/", "/users", "/users?status=all&sort=cpu&descending=true", "/new-user", "/import", "/audit", "/account",
                     "/groups", "/new-group", "/domains", "/domains/default", "/new-domain", "/policies", "/policies/default",
                     "/users/dtplaw", "/users/dtplaw/edit", f"/users/{ADMIN}", "/users/dtpnobody", "/components"):  # fmt: skip
            admin.goto(path)
            found = admin.evaluate(CHECKS)
            if found:
                wrong[f"{path} {theme}"] = found
    admin.emulate_media(color_scheme="light")
    admin.set_viewport_size({"width": 1280, "height": 900})
    assert wrong == {}


def test_signing_out_ends_the_session(browser: Browser, front: Front, admin: Page) -> None:
    make_user(front, "dtpout")
    with visiting(browser, front) as visit:
        page = visit.page
        sign_in(page, "dtpout", PASSWORD)
        old = page.context.cookies()
        page.get_by_text("dtpout, your account").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_text("You are signed out.")).to_be_visible()
        page.goto("/")
        assert "/sign-in" in page.url
        page.context.add_cookies(old)  # type: ignore[arg-type]  # what cookies() gives is what it takes
        page.goto("/")
        assert "/sign-in" in page.url, "the cookie itself is dead"


def test_the_whole_way_without_scripts(browser: Browser, front: Front, admin: Page) -> None:
    with visiting(browser, front, java_script_enabled=False) as visit:
        page = visit.page
        sign_in(page, ADMIN, ADMIN_PASSWORD)
        page.goto("/new-user")
        page.get_by_label("User name").fill("dtpplain")
        page.get_by_label("CPU", exact=True).fill("0.25")
        page.get_by_role("button", name="Create user").click()
        one_time = page.get_by_label("the one-time password", exact=True).inner_text()
        assert front.cgroup("cpu", "dtpplain", "cpu.cfs_quota_us") == "25000"
        page.goto("/users/dtpplain/edit")
        page.get_by_label("CPU", exact=True).fill("0.4")
        page.get_by_role("button", name="Save").click()
        assert front.cgroup("cpu", "dtpplain", "cpu.cfs_quota_us") == "40000"
        page.goto("/users?search=dtpplain")
        expect(page.locator("tbody tr")).to_have_count(1)
        page.get_by_text("admin, your account").click()
        page.get_by_role("button", name="Sign out").click()
        sign_in(page, "dtpplain", one_time)
        choose_password(page, one_time, PASSWORD)
        expect(page.locator("[data-live-state]")).to_contain_text("Reload")
        expect(page.get_by_role("meter", name="CPU")).to_be_visible()


def test_a_form_from_elsewhere_is_refused(browser: Browser, front: Front, admin: Page) -> None:
    make_user(front, "dtpcsrf")
    admin.goto("/users/dtpcsrf")
    answers = admin.evaluate(
        """async () => {
            const send = (body) => fetch('/users/dtpcsrf/disable', {method: 'POST', body: new URLSearchParams(body)});
            return [(await send({})).status, (await send({csrf: 'x'.repeat(43)})).status];
        }"""
    )
    assert answers == [403, 403]
    expect(admin.locator(".title-row")).to_contain_text("active")


def test_a_token_is_made_after_a_proof_without_scripts(browser: Browser, front: Front, admin: Page) -> None:
    """A proof that has grown old on the way leads through one page and back to the form that asked for it."""
    make_user(front, "dtptoken")
    with visiting(browser, front, java_script_enabled=False) as visit:
        page = visit.page
        sign_in(page, "dtptoken", PASSWORD)
        page.goto("/account/tokens")
        page.get_by_role("link", name="New token").click()
        front.stack.by_hand("UPDATE sessions SET proved_at = 0")
        page.get_by_label("What it is for").fill("backup")
        page.get_by_role("button", name="Make the token").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Confirm it is you")
        page.get_by_label("Password", exact=True).fill(PASSWORD)
        page.get_by_role("button", name="Go on").click()
        assert page.url == f"{front.url}/account/tokens/new"
        expect(page.get_by_text("please do it once more")).to_be_visible()
        page.get_by_label("What it is for").fill("backup")
        page.get_by_role("button", name="Make the token").click()
        secret = page.get_by_label("the token", exact=True).inner_text()
        bearer = {"Authorization": f"Bearer {secret}", "X-Forwarded-For": "192.0.2.7"}
        assert front.stack.http("GET", "/api/v1/users/dtptoken", headers=bearer)[0] == 200
        page.get_by_role("link", name="Done, I have it").click()
        page.get_by_role("button", name="End the token for backup").click()
        assert front.stack.http("GET", "/api/v1/users/dtptoken", headers=bearer)[0] == 401
        page.goto("/account/sessions")
        expect(page.get_by_text("this one")).to_be_visible()
