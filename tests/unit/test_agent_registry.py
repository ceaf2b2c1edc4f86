"""The agent's file: what the PAM hook reads, UIDs that are never given twice, and what happens when it is broken."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from diycloud.agent.protocol import Limits, State, Wish
from diycloud.agent.registry import Entry, Registry
from diycloud.errors import HostError, Unavailable
from diycloud.system import ROOT, Local, Owner, System
from diycloud.system.fake import Fake

PATH = Path("/var/lib/diycloud/agent/managed")
HEAD = "diycloud-managed 1 20002\n"
ALICE, BOB = "alice 20000 3 active 50000 67108864 50\n", "bob 20001 1 locked 100000 2147483648 512\n"


def registry(system: System, path: Path = PATH) -> Registry:
    return Registry(system, path, uid_min=20_000, uid_max=20_010)


def host(text: str | None = None) -> Fake:
    files = {"/var/lib/diycloud/agent/started": ""} if text is not None else {"/var/lib/diycloud/agent/.keep": ""}
    return Fake(files | ({str(PATH): text} if text is not None else {}))


def entry(name: str, uid: int, generation: int = 1) -> Entry:
    return Entry.of(Wish(name, generation, Limits(0.5, 64 << 20, 50)), uid)


def test_the_first_start_writes_a_header_for_root_only() -> None:
    fake = host()
    found = registry(fake)
    assert (found.problem, found.entries, found.next_number) == ("", {}, 20_000)
    assert fake.files[str(PATH)].text == "diycloud-managed 1 20000\n"
    assert fake.files[str(PATH)].mode == 0o600


def test_lines_are_as_the_shell_reads_them() -> None:
    fake = host(HEAD + ALICE + BOB)
    found = registry(fake)
    assert found.entries["alice"] == Entry("alice", 20_000, 3, State.ACTIVE, 50_000, 64 << 20, 50)
    assert found.entries["alice"].limits == (0.5, 64 << 20, 50)
    found.store([found.entries["bob"]._replace(state=State.ACTIVE)])
    assert fake.read(PATH) == HEAD + ALICE + BOB.replace("locked", "active")


def test_a_posix_shell_reads_every_line(tmp_path: Path) -> None:
    path = tmp_path / "managed"
    Registry(_AsMe(), path, uid_min=20_000, uid_max=20_010).store([entry("alice", 20_000), entry("bob", 20_001)])
    script = 'while read -r name uid generation state cpu memory tasks; do echo "$name=$uid,$state,$cpu,$memory,$tasks"; done'
    told = subprocess.run(
        ["sh", "-c", script], input=path.read_text(), capture_output=True, text=True, check=True
    ).stdout
    assert told.splitlines()[1:] == [
        f"{name}={uid},active,50000,67108864,50" for name, uid in (("alice", 20000), ("bob", 20001))
    ]


def test_uids_are_never_given_twice_and_never_taken_from_the_host() -> None:
    fake = host(HEAD + ALICE + BOB)
    found = registry(fake)
    assert found.free_numbers(2, {20_002, 20_004}) == [20_003, 20_005]
    found.store([entry("carol", 20_005)])
    found.forget(["carol", "alice"])
    assert registry(fake).next_number == 20_006
    assert registry(fake).free_numbers(1, ()) == [20_006]
    with pytest.raises(Unavailable, match="used up"):
        registry(fake).free_numbers(6, ())


@pytest.mark.parametrize(
    "text",
    [
        "", "\n", "diycloud-managed 2 20002\n" + ALICE, HEAD + ALICE[:-1], HEAD + ALICE + ALICE, HEAD + ALICE + "\n",
        HEAD + ALICE.replace("active", "root"), HEAD + ALICE.replace("20000", "x"), HEAD + ALICE.replace("20000", "0"),
        HEAD + ALICE.replace("20000", "20002"), HEAD + ALICE + BOB.replace("20001", "20000"), "x" * 100 + "\n",
        HEAD + ALICE.replace("alice", "Alice"), HEAD + ALICE.replace("alice", "5"), HEAD.replace("\n", " \n") + ALICE,
        HEAD + ALICE.replace(" 50\n", "\n"), HEAD + ALICE.replace(" 50\n", " 50 7\n"), "diycloud-managed 1 x\n",
    ],
)  # fmt: skip
def test_a_broken_file_is_said_and_stops_changes(text: str) -> None:
    fake = host(text)
    found = registry(fake)
    assert found.problem
    assert found.entries == {}
    assert fake.read(PATH) == text, "it is left for people to look at"
    with pytest.raises(Unavailable):
        found.require_sound()


def test_a_file_that_was_lost_is_not_an_empty_one() -> None:
    fake = host(HEAD)
    fake.remove(PATH)
    assert registry(fake).problem


def test_a_disk_that_is_full_changes_nothing_in_memory() -> None:
    class Full(Fake):
        def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
            raise HostError("No space left on device")

    full = Full({"/var/lib/diycloud/agent/started": "", str(PATH): HEAD + ALICE})
    found = registry(full)
    for act in (lambda: found.store([entry("bob", 20_002)]), lambda: found.forget(["alice"])):
        with pytest.raises(HostError):
            act()
    assert list(found.entries) == ["alice"]
    assert found.next_number == 20_002


def test_a_batch_is_one_write() -> None:
    from diycloud.system.recording import Recording

    recording = Recording(host(HEAD))
    found = registry(recording)
    recording.effects.clear()
    assert found.store([entry("alice", 20_002), entry("bob", 20_003)]) is True
    assert found.store([entry("alice", 20_002)]) is False
    assert recording.effects == [f"write {PATH}"]


def test_ten_thousand_accounts_are_quick(tmp_path: Path) -> None:
    """A guard against quadratic work, far above what is measured (load 20 ms, save 3 ms)."""
    path = tmp_path / "managed"
    Registry(_AsMe(), path, uid_min=20_000, uid_max=59_999).store(
        [entry(f"user{n}", 20_000 + n) for n in range(10_000)]
    )
    start = time.process_time()
    found = Registry(_AsMe(), path, uid_min=20_000, uid_max=59_999)
    found.store([entry("user7", 20_007, 2)])
    assert time.process_time() - start < 1


class _AsMe(Local):
    """The real host, for a test that is not root: what would be root's is the tester's."""

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        here = Path(path).parent.stat()
        return super().write(path, text, mode=mode, owner=Owner(here.st_uid, here.st_gid))
