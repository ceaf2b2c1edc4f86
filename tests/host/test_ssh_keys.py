"""SSH keys that are added here open the account through a real sshd, from where they may."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import cannot_run
from tests.stack import Stack

pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen") or not shutil.which("sshd"), reason="no OpenSSH here")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if reason := cannot_run():
        pytest.skip(reason)
    with Stack(uid_min=53_500, uid_max=53_599, cgroup="dtkeys") as running:
        yield running


@pytest.fixture(scope="module")
def port(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """An sshd that reads the platform's folder of keys. Its check of modes is off: /var/tmp is everybody's."""
    folder = tmp_path_factory.mktemp("sshd")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host"], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1:{number}\nHostKey {folder}/host\nPidFile none\nUsePAM yes\n"
        "PasswordAuthentication no\nStrictModes no\n"
        f"KbdInteractiveAuthentication no\nAuthorizedKeysFile {stack.prefix}/var/lib/diycloud/keys/%u .ssh/authorized_keys\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    daemon = subprocess.Popen([shutil.which("sshd") or "sshd", "-D", "-f", folder / "config", "-E", folder / "log"])
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", number)) == 0:
                break
        time.sleep(0.05)
    yield number
    daemon.terminate()
    daemon.wait(10)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada's", "-f", tmp_path / "key"], check=True)
    return tmp_path / "key"


def ssh(port: int, key: Path, user: str) -> subprocess.CompletedProcess[str]:
    argv = [
        "ssh",
        "-F",
        "none",
        "-i",
        str(key),
        "-p",
        str(port),
        "-o",
        "BatchMode=yes",
        "-o",
        "StrictHostKeyChecking=no",
    ]
    argv += [
        "-o",
        "UserKnownHostsFile=/dev/null",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "LogLevel=ERROR",
        f"{user}@127.0.0.1",
        "id -un",
    ]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)


def test_a_key_opens_the_account_until_it_is_removed(stack: Stack, port: int, key: Path) -> None:
    stack.cli("user", "create", "dtkada")
    assert ssh(port, key, "dtkada").returncode == 255
    added = stack.json("key", "add", "dtkada", "--key", key.with_suffix(".pub").read_text().strip())
    assert ssh(port, key, "dtkada").stdout == "dtkada\n"
    file = stack.prefix / "var/lib/diycloud/keys/dtkada"
    assert (file.stat().st_uid, file.stat().st_mode & 0o777) == (0, 0o640), "the user can read it, and not change it"
    fingerprint = added["keys"][0]["fingerprint"]
    assert stack.json("key", "list", "dtkada")["keys"][0]["comment"] == "ada's"
    stack.cli("key", "remove", "dtkada", "--fingerprint", fingerprint)
    assert ssh(port, key, "dtkada").returncode == 255
    assert not file.exists()
    stack.cli("key", "remove", "dtkada", "--fingerprint", fingerprint, ok=5)


def test_a_key_is_good_only_from_the_users_networks(stack: Stack, port: int, key: Path) -> None:
    stack.cli("user", "create", "dtkbob", "--allowed-client-ip", "192.0.2.0/24")
    stack.cli("key", "add", "dtkbob", "--key", key.with_suffix(".pub").read_text().strip())
    assert ssh(port, key, "dtkbob").returncode == 255
    stack.cli("user", "modify", "dtkbob", "--allowed-client-ip", "192.0.2.0/24,127.0.0.0/8")
    assert ssh(port, key, "dtkbob").stdout == "dtkbob\n"


def test_a_disabled_users_key_opens_nothing_and_a_purge_takes_it(stack: Stack, port: int, key: Path) -> None:
    stack.cli("user", "create", "dtkeve")
    stack.cli("key", "add", "dtkeve", "--key", key.with_suffix(".pub").read_text().strip())
    stack.cli("user", "disable", "dtkeve")
    assert ssh(port, key, "dtkeve").returncode == 255
    stack.cli("user", "delete", "dtkeve")
    stack.cli("user", "purge", "dtkeve", "--yes")
    assert not (stack.prefix / "var/lib/diycloud/keys/dtkeve").exists()


def test_an_agent_that_was_away_gets_the_keys_later(stack: Stack, port: int, key: Path) -> None:
    stack.cli("user", "create", "dtklate")
    stack.stop_agent()
    said = stack.json("key", "add", "dtklate", "--key", key.with_suffix(".pub").read_text().strip())
    assert said["warnings"]
    stack.start_agent()
    stack.stop_server()
    stack.start_server()
    for _ in range(100):
        if ssh(port, key, "dtklate").returncode == 0:
            return
        time.sleep(0.2)
    raise AssertionError("the key never came")
