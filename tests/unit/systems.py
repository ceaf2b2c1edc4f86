"""Each kind of System in a folder of a test's own, for the tests of what they all do alike."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from diycloud.system import Local, Owner, Result, System
from diycloud.system.dry_run import DryRun
from diycloud.system.fake import Fake, File
from diycloud.system.recording import Recording

ME = Owner(os.getuid(), os.getgid())
KINDS = ("local", "fake", "recording", "dry-run")
REAL = ("local", "recording")


def _answers() -> dict[str, Result]:
    return {
        "sh -c 'echo out; echo err >&2; exit 3'": Result(3, "out\n", "err\n"),
        "true": Result(0, "", ""),
        "no-such-program-here": Result(127, "", "There is no program no-such-program-here on this host."),
    }


def make(kind: str, root: Path) -> System:
    if kind == "fake":
        fake = Fake(commands=_answers())
        for folder in reversed((root, *root.parents)):
            fake.files[str(folder)] = File(None, 0o755)
        return fake
    if kind == "dry-run":
        return DryRun(Local(), lambda _: None)
    return Local() if kind == "local" else Recording(Local())


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        text = path.read_bytes() if stat.S_ISREG(info.st_mode) else b""
        found[str(path)] = (info.st_mode, info.st_ino, text)
    return found
