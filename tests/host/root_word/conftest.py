"""A stack that may give sudo and make archives, for all tests of this folder."""

from __future__ import annotations

import pwd
import subprocess
from collections.abc import Iterator

import pytest

from diycloud.host import sudo
from diycloud.host.accounts import stop_processes
from diycloud.system import Local
from tests.host.root_word.support import ARCHIVES, CGROUP, KILLED, UID_MAX, UID_MIN, clean
from tests.stack import Stack, remove_cgroups


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    clean()
    settings = f"  allow_sudo: true\n  archive: {ARCHIVES}\n"
    with Stack(uid_min=UID_MIN, uid_max=UID_MAX, cgroup=CGROUP, settings=settings) as stack:
        yield stack
    clean()


@pytest.fixture(autouse=True)
def tidy() -> Iterator[None]:
    yield
    for account in list(pwd.getpwall()):
        if account.pw_name.startswith("dtroot"):
            stop_processes(Local(), account.pw_uid)


@pytest.fixture
def places() -> Iterator[None]:
    ARCHIVES.mkdir(mode=0o700, exist_ok=True)
    yield
    sudo.DROP_IN.unlink(missing_ok=True)
    remove_cgroups(KILLED)
    subprocess.run(["userdel", "-rf", KILLED], capture_output=True, check=False)
