"""Passwords in /etc/shadow: the hash, the day of its change and its greatest age, written for many accounts at once.

The file is written here, under the lock that all programs take (docs/decisions/0007-password-field.md). Source: shadow(5).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from diycloud.host.accounts import LOCK, SHADOW, WAIT_S, run_patiently
from diycloud.system.contract import System

UNLIMITED = 99_999
_MAX_DAYS = re.compile(r"^\s*PASS_MAX_DAYS\s+([0-9]{1,5})\s*$", re.MULTILINE)


class Change(NamedTuple):
    """What becomes of one account's password.

    field: hash for shadow(5), `!` first locks, None leaves it; expired: it must be changed at the next sign-in by
    password; max_days: its greatest age, None leaves it.
    """

    field: str | None = None
    expired: bool = False
    max_days: int | None = None


def set_passwords(system: System, hashes: Mapping[str, str]) -> None:
    """Set the password fields of some accounts and the day of their change, as `chpasswd -e` would.

    hashes: name → field of shadow(5); `!` first locks. Raises HostError if another program holds the lock for too long.
    """
    change_passwords(system, {name: Change(field) for name, field in hashes.items()})


def change_passwords(system: System, changes: Mapping[str, Change]) -> None:
    """Change some accounts' passwords, or how long they are good. Raises as `set_passwords`."""
    with system.locked(LOCK, patience_s=WAIT_S):
        text = system.read(SHADOW)
        if text is not None:
            system.replace(SHADOW, _changed(text, changes, today=int(time.time()) // 86_400))
            return
    # A host that keeps the hashes elsewhere (tcb(5)) has its own tools.
    hashes = "".join(f"{name}:{change.field}\n" for name, change in changes.items() if change.field is not None)
    if hashes:
        run_patiently(system, ["chpasswd", "-e"], input=hashes)
    for name, change in changes.items():
        flags = ["-d", "0"] if change.expired else []
        flags += ["-M", str(change.max_days)] if change.max_days is not None else []
        if flags:
            run_patiently(system, ["chage", *flags, name])


def _changed(text: str, changes: Mapping[str, Change], *, today: int) -> str:
    """Return another text of /etc/shadow; a line that is missing is made as pwconv(8) would."""
    left = dict(changes)
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines):
        if line.partition(":")[0] in left:
            lines[number] = _line(line.split(":"), left.pop(line.partition(":")[0]), today)
    lines += [
        _line([name, "!", "", "0", str(UNLIMITED), "7", "", "", ""], change, today) for name, change in left.items()
    ]
    return "\n".join([*lines, ""])


def _line(fields: list[str], change: Change, today: int) -> str:
    fields += [""] * (9 - len(fields))
    if change.field is not None:
        fields[1], fields[2] = change.field, str(today)
    if change.expired:
        fields[2] = "0"
    if change.max_days is not None:
        fields[4] = str(change.max_days)
    return ":".join(fields)


def read_usual_age(system: System) -> int:
    """Return the greatest age (days) that the host gives the passwords of new accounts: login.defs(5)."""
    found = _MAX_DAYS.search(system.read("/etc/login.defs") or "")
    return int(found[1]) if found else UNLIMITED
