"""SSH keys: what is taken as one, what the host's file says, and sshd's settings."""

from __future__ import annotations

import base64
import struct
import subprocess
from pathlib import Path

import pytest

from diycloud.auth.keys import parse_key, read_keys
from diycloud.errors import HostError, InvalidInput, Unsupported
from diycloud.host import keys
from diycloud.system import Result
from diycloud.system.fake import Fake

ED = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGLo0uJDu3ewRPzSZJVyHtB5p5dz3aRWUJ1vKwbRRWOi"
FOLDER = Path("/var/lib/diycloud/keys")
INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Real keys of ssh-keygen: kind → the line of the .pub file."""
    folder, found = tmp_path_factory.mktemp("keys"), {}
    for kind, bits in (("ed25519", 0), ("rsa", 2048), ("ecdsa", 256), ("ecdsa", 521), ("rsa", 1024)):
        path = folder / f"{kind}{bits}"
        argv = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"ada on {kind}", "-f", str(path)]
        if subprocess.run(argv + (["-b", str(bits)] if bits else []), check=False, capture_output=True).returncode == 0:
            found[path.name] = path.with_suffix(".pub").read_text().strip()
    return found


@pytest.mark.parametrize("kind", ["ed255190", "rsa2048", "ecdsa256", "ecdsa521"])
def test_the_keys_of_ssh_keygen_are_taken_and_named_alike(made: dict[str, str], kind: str, tmp_path: Path) -> None:
    key = parse_key(made[kind])
    assert key.line == made[kind]
    assert key.comment.startswith("ada on")
    (tmp_path / "k.pub").write_text(made[kind])
    said = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(tmp_path / "k.pub")], capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[1] == key.fingerprint


def wrong(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        parse_key(text)
    (error,) = caught.value.errors
    assert error.field == "key"
    return error.message


def test_what_is_no_key_is_told_apart(made: dict[str, str]) -> None:
    if "rsa1024" in made:
        assert "2048" in wrong(made["rsa1024"])
    assert "private" in wrong("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert "options" in wrong(f'command="/bin/sh" {ED}')
    assert "options" in wrong("ssh-dss AAAAB3NzaC1kc3MAAACB")
    assert "cut off" in wrong(ED[:-7])
    assert "no whole key" in wrong(ED.replace("ssh-ed25519 ", "ssh-rsa "))
    blob = struct.pack(">I11sI16s", 11, b"ssh-ed25519", 16, b"x" * 16)
    assert "32 bytes" in wrong("ssh-ed25519 " + base64.b64encode(blob).decode())
    assert "options" in wrong("")


def test_a_line_somebody_wrote_by_hand_does_not_hide_the_others() -> None:
    assert [key.line for key in read_keys(f"{ED} one\nrubbish\n\n{ED} two")] == [f"{ED} one", f"{ED} two"]


def test_networks_stand_before_each_key() -> None:
    assert keys.render_keys([ED], ["192.0.2.0/24", "2001:db8::/32"]) == f'from="192.0.2.0/24,2001:db8::/32" {ED}\n'
    assert keys.render_keys([ED, ED], []) == f"{ED}\n{ED}\n"


def host(config: str = INCLUDE, *, in_force: str = "", refuses: bool = False) -> Fake:
    answer = Result(255, "", "bad line") if refuses else Result(0, "", "")
    files = {"/etc/ssh/sshd_config": config, keys.SSHD: "", "/run/utmp": "", "/etc/ssh/sshd_config.d/x": ""}
    return Fake(files, {f"{keys.SSHD} -T": in_force, f"{keys.SSHD} -t": answer})


def test_sshd_reads_our_folder_beside_what_it_reads_already() -> None:
    fake = host(in_force="port 22\nauthorizedkeysfile /etc/ssh/keys/%u .ssh/authorized_keys\n")
    assert keys.ensure_sshd(fake, FOLDER, keys.SSHD)
    assert f"AuthorizedKeysFile {FOLDER}/%u /etc/ssh/keys/%u .ssh/authorized_keys\n" in (fake.read(keys.DROP_IN) or "")
    assert not keys.ensure_sshd(fake, FOLDER, keys.SSHD)
    assert keys.remove_sshd(fake)
    assert fake.read(keys.DROP_IN) is None


def test_only_members_of_the_group_are_asked_for_codes_and_only_where_passwords_open_anything() -> None:
    """Whoever turns passwords off later has turned them off: keyboard-interactive is open to nobody without a code."""
    open_to = f"Match Group {keys.CODES_GROUP}\n    KbdInteractiveAuthentication yes\n"
    fake = host(in_force="passwordauthentication yes\nkbdinteractiveauthentication no\n")
    assert keys.ensure_sshd(fake, FOLDER, keys.SSHD)
    assert (fake.read(keys.DROP_IN) or "").endswith(open_to)
    fake.commands[f"{keys.SSHD} -T"] = "passwordauthentication no\n"
    assert keys.ensure_sshd(fake, FOLDER, keys.SSHD), "the next installation takes it back"
    assert "KbdInteractive" not in (fake.read(keys.DROP_IN) or "")


def test_settings_that_sshd_refuses_are_taken_back() -> None:
    fake = host(refuses=True)
    with pytest.raises(HostError, match="bad line"):
        keys.ensure_sshd(fake, FOLDER, keys.SSHD)
    assert fake.read(keys.DROP_IN) is None


def test_a_host_that_cannot_is_told_so() -> None:
    with pytest.raises(Unsupported, match="no SSH server"):
        keys.ensure_sshd(Fake({}), FOLDER, keys.SSHD)
    with pytest.raises(Unsupported, match="includes no folder"):
        keys.ensure_sshd(host(config="Port 22\n"), FOLDER, keys.SSHD)
