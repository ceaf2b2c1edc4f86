"""The README's picture: `python -m tests.browser.picture` (root) starts the platform and writes docs/images/portal.png.

Real accounts, real programs in their slices, real readings: the administrator's page of one user at a desk in the light,
and that user's own page on a phone in the dark.
"""

from __future__ import annotations

import base64
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.stack import CONTROLLERS, ROOT, Stack

from .conftest import CHROMIUM, FLAGS
from .front import ADMIN, ADMIN_ONE_TIME, ADMIN_PASSWORD, Front
from .test_portal import PASSWORD, choose_password, sign_in

TARGET = ROOT / "docs/images/portal.png"
SETTINGS = "server:\n  host_name: lab.example.org\n"
PEOPLE = {
    "dtanaka": "Daisuke Tanaka",
    "dtaylor": "Dana Taylor",
    "dthomas": "Diana Thomas",
    "dtran": "Duc Tran",
    "dturner": "Denise Turner",
}
WORK = """
import math, sys, time
kept = bytearray(int(sys.argv[1]))
for i in range(0, len(kept), 4096):
    kept[i] = 1
while True:
    now = time.monotonic()
    share = 0.42 + 0.24 * math.sin(now / 7) + 0.1 * math.sin(now / 2.3)
    spent, end = time.process_time(), now + 0.1
    while time.process_time() - spent < 0.1 * share and time.monotonic() < end:
        pass
    time.sleep(max(0.0, end - time.monotonic()))
"""
FRAME = """<!doctype html><style>
body {{ margin: 0; width: 1440px; height: 960px; position: relative; overflow: hidden }}
html {{ background: linear-gradient(160deg, #dfe7f5, #c9d6ee) }}
img {{ position: absolute; box-shadow: 0 18px 60px rgb(16 32 70 / 28%) }}
.desk {{ left: 56px; top: 52px; width: 1120px; border-radius: 12px }}
.phone {{ right: 56px; bottom: 44px; width: 292px; border-radius: 28px; border: 8px solid #0b111c }}
</style><img class=desk src="{desk}"><img class=phone src="{phone}">"""


@contextmanager
def at_work(stack: Stack, username: str) -> Iterator[None]:
    """Run something that a user would run, in the user's slice."""
    account = pwd.getpwnam(username)

    def enter() -> None:
        for controller in CONTROLLERS:
            (Path("/sys/fs/cgroup") / controller / stack.cgroup / username / "cgroup.procs").write_text(
                str(os.getpid())
            )
        os.setuid(account.pw_uid)

    programs = [[sys.executable, "-c", WORK, size] for size in ("1_100_000_000", "90_000_000")] + [
        ["sleep", "600"]
    ] * 21
    running = [subprocess.Popen(program, preexec_fn=enter) for program in programs]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def visit(browser: Browser, front: Front, width: int, height: int, theme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        device_scale_factor=2,
        base_url=front.url,
        ignore_https_errors=True,
    )  # type: ignore[arg-type]
    return context.new_page()


def shot(page: Page) -> str:
    return "data:image/png;base64," + base64.b64encode(page.screenshot()).decode()


def main() -> None:
    with (
        Stack(uid_min=57_000, uid_max=57_999, cgroup="dtpicture", settings=SETTINGS) as stack,
        Front(stack) as front,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, full_name in PEOPLE.items():
            words = (
                "--full-name",
                full_name,
                "--email",
                f"{name}@example.org",
                "--cpu",
                "1",
                "--description",
                "Spectra, group 4",
            )
            stack.cli("user", "create", name, "--password", "-", *words, input=f"{PASSWORD}\n")
        desk, phone = visit(browser, front, 1280, 900, "light"), visit(browser, front, 375, 790, "dark")
        sign_in(desk, ADMIN, ADMIN_ONE_TIME)
        choose_password(desk, ADMIN_ONE_TIME, ADMIN_PASSWORD)
        sign_in(phone, "dtanaka", PASSWORD)
        phone.wait_for_url(f"{front.url}/")
        stack.cli("limits", "set", "dtanaka", "--cpu", "1.5", "--memory", "2G")
        with at_work(stack, "dtanaka"):
            desk.goto("/users/dtanaka")
            phone.goto("/")
            phone.wait_for_timeout(80_000)
            pictures = {"desk": shot(desk), "phone": shot(phone)}
        frame = browser.new_page(viewport={"width": 1440, "height": 960})
        frame.set_content(FRAME.format(**pictures))
        frame.wait_for_timeout(500)
        TARGET.parent.mkdir(parents=True, exist_ok=True)
        frame.screenshot(path=str(TARGET))
        browser.close()


if __name__ == "__main__":
    main()
