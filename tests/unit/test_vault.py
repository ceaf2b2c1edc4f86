"""What is sealed opens with its key, for its purpose, and in no other way."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diycloud.db.vault import KEY_SIZE, Vault
from diycloud.errors import HostError


def test_what_is_sealed_opens_after_a_restart_and_differs_each_time(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    first = Vault.at(path)
    sealed = [first.seal(b"JBSWY3DPEHPK3PXP", purpose="totp 7") for _ in range(2)]
    assert sealed[0] != sealed[1] and all(b"JBSWY3DPEHPK3PXP" not in one for one in sealed)
    assert [Vault.at(path).open(one, purpose="totp 7") for one in sealed] == [b"JBSWY3DPEHPK3PXP"] * 2
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and os.listdir(tmp_path) == ["secret.key"]


def test_another_purpose_another_key_and_changed_bytes_do_not_open() -> None:
    vault = Vault.of_this_process()
    sealed = vault.seal(b"secret", purpose="totp 7")
    for opener, given, purpose in (
        (vault, sealed, "totp 8"),
        (Vault.of_this_process(), sealed, "totp 7"),
        (vault, sealed[:-1], "totp 7"),
        (vault, sealed[:-1] + bytes([sealed[-1] ^ 1]), "totp 7"),
        (vault, b"", "totp 7"),
    ):
        with pytest.raises(HostError, match="does not open"):
            opener.open(given, purpose=purpose)


def test_servers_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    path = tmp_path / "secret.key"
    with ThreadPoolExecutor(8) as threads:
        vaults = list(threads.map(lambda _: Vault.at(path), range(8)))
    sealed = vaults[0].seal(b"x", purpose="p")
    assert [vault.open(sealed, purpose="p") for vault in vaults] == [b"x"] * 8


@pytest.mark.parametrize("content", [b"", b"short", bytes(KEY_SIZE + 1)])
def test_what_is_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    with pytest.raises(HostError, match="holds no key"):
        Vault.at(path)
    assert path.read_bytes() == content
