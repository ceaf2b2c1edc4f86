"""What PAM's modules read: as they write it themselves, and whole again whatever became of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from diycloud.errors import InvalidInput
from diycloud.host.pam_files import LOST, NOTHING, Demands, PamFiles, parse_codes, render_access, render_codes
from diycloud.system.fake import Fake

NOW = 59842967 * 30.0
FOLDER = Path("/var/lib/diycloud/sign-in")
SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ADA = Demands(("10.0.0.0/8", "2001:db8::/32"), SECRET)
MODULES = f'{SECRET}\n" RATE_LIMIT 3 30 1795289002 1795289010\n" WINDOW_SIZE 3\n" DISALLOW_REUSE 59842966 59842967\n" TOTP_AUTH\n'


@pytest.fixture
def fake() -> Fake:
    return Fake({"/var/lib/x": ""})


@pytest.fixture
def files(fake: Fake) -> PamFiles:
    return PamFiles(fake, FOLDER)


def text(fake: Fake, name: str) -> str:
    return fake.read(FOLDER / name) or ""


def test_what_is_written_is_read_again_and_written_once(fake: Fake, files: PamFiles) -> None:
    wanted = {"ada": ADA, "bob": Demands(uncoded=True), "eve": NOTHING}
    assert files.ensure(wanted) == {"ada", "bob"}
    assert files.read() == {"ada": ADA, "bob": Demands(uncoded=True)}
    before = dict(fake.files)
    assert files.ensure(wanted) == set()
    assert fake.files == before
    assert text(fake, "access") == "+:ada:10.0.0.0/8 2001:db8::/32\n-:ada:ALL\n"
    assert (text(fake, "coded"), text(fake, "uncoded")) == ("ada\n", "bob\n")
    assert fake.files[f"{FOLDER}/codes/ada"].mode == 0o600
    assert fake.files[str(FOLDER)].mode == 0o700


def test_others_stay_and_who_is_asked_nothing_is_gone(fake: Fake, files: PamFiles) -> None:
    files.ensure({"ada": ADA, "bob": ADA})
    assert files.ensure({"ada": NOTHING}) == {"ada"}
    assert files.read() == {"bob": ADA}
    assert fake.list_dir(FOLDER / "codes") == ["bob"]


@pytest.mark.parametrize("network", ["127.0.0.0/8", "127.0.0.1", "::1", "0.0.0.0/0", "::/0"])
def test_the_hosts_own_networks_are_su_and_console_too(network: str) -> None:
    assert render_access({"ada": ["10.0.0.0/8", network]}).startswith(f"+:ada:10.0.0.0/8 {network} LOCAL\n")
    assert "LOCAL" not in render_access({"ada": ["10.0.0.0/8", "2001:db8::/32"]})


@pytest.mark.parametrize("name", ["all", "except"])
def test_a_name_that_means_everybody_has_no_networks(files: PamFiles, name: str) -> None:
    with pytest.raises(InvalidInput, match="everybody"):
        files.ensure({name: ADA})
    assert files.ensure({name: Demands(secret=SECRET)}) == {name}


@pytest.mark.parametrize("left", ["", "+:ada:10.0.0.0/8\n", "garbage\n\x00", "+:ada:10.0.0.0/8\n-:bob:ALL\n"])
def test_a_list_that_was_spoilt_differs_from_the_wish(fake: Fake, files: PamFiles, left: str) -> None:
    files.ensure({"ada": ADA, "bob": ADA})
    fake.write(FOLDER / "access", left)
    assert files.read().get("ada", NOTHING).networks == ()
    assert files.ensure({"ada": ADA, "bob": ADA}) == {"ada", "bob"}
    assert files.read() == {"ada": ADA, "bob": ADA}


@pytest.mark.parametrize("left", [None, "", "garbage", f"{SECRET}\n"])
def test_a_secret_that_was_lost_comes_back(fake: Fake, files: PamFiles, left: str | None) -> None:
    files.ensure({"ada": ADA})
    fake.remove(FOLDER / "codes/ada")
    if left is not None:
        fake.write(FOLDER / "codes/ada", left)
    assert files.read()["ada"].secret == LOST
    files.ensure({"bob": ADA})
    assert text(fake, "coded") == "ada\nbob\n", "asked for all the same"
    assert files.ensure({"ada": ADA}) == {"ada"}
    assert files.read()["ada"] == ADA


def test_a_line_that_nobody_understands_goes_with_the_next_look(fake: Fake, files: PamFiles) -> None:
    files.ensure({"ada": ADA})
    good = text(fake, "access")
    fake.write(FOLDER / "access", f"-:ALL:ALL\n{good}")
    fake.remove(FOLDER / "uncoded")
    files.mend()
    assert text(fake, "access") == good
    assert fake.exists(FOLDER / "uncoded")


def test_a_step_is_spent_once_and_what_the_module_noted_stays(fake: Fake, files: PamFiles) -> None:
    files.ensure({"ada": ADA}, used={"ada": 59842960})
    assert parse_codes(text(fake, "codes/ada")) == (SECRET, (59842960,))
    fake.write(FOLDER / "codes/ada", MODULES, mode=0o600)
    assert files.ensure({"ada": ADA}, used={"ada": 59842960}) == set(), "what the module counts is no difference"
    assert files.spend("ada", 59842967, at=NOW) is False, "SSH has taken it"
    assert files.spend("ada", 59842968, at=NOW) is True
    assert files.spend("ada", 59842968, at=NOW) is False
    assert files.spend("ada", 1 << 39, at=NOW) is False, "far steps would push out those that were used"
    assert '" RATE_LIMIT 3 30 1795289002 1795289010\n' in text(fake, "codes/ada"), "its count of tries too"
    assert parse_codes(text(fake, "codes/ada"))[1] == (59842966, 59842967, 59842968)
    assert files.spend("bob", 1, at=NOW) is True, "who has no codes here has none to spend"


def test_another_secret_has_no_used_steps(fake: Fake, files: PamFiles) -> None:
    files.ensure({"ada": ADA})
    files.spend("ada", 59842967, at=NOW)
    files.ensure({"ada": ADA._replace(secret="B" * 32)})
    assert parse_codes(text(fake, "codes/ada")) == ("B" * 32, ())


def test_only_so_many_steps_are_kept() -> None:
    assert parse_codes(render_codes(SECRET, range(100)))[1] == tuple(range(94, 100))
