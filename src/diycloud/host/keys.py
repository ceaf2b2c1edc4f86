"""What sshd needs of the platform: SSH keys in a root-owned folder beside people's own files, and room to ask for a code.

The folder holds one file for each user, as authorized_keys(5); the user can read it (sshd does so as the user) and not
change it. A user's networks stand before each key as `from=`. A code is asked for by keyboard-interactive, which is
opened for the users who have one and nobody else: whoever turns PasswordAuthentication off later has turned passwords off.
Sources: sshd_config(5) AuthorizedKeysFile, Include and Match; sshd(8) "AUTHORIZED_KEYS FILE FORMAT".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diycloud.errors import HostError, Unsupported
from diycloud.system.contract import Owner, System

SSHD_CONFIG = "/etc/ssh/sshd_config"
DROP_IN = "/etc/ssh/sshd_config.d/10-diycloud.conf"
SSHD = "/usr/sbin/sshd"
USUAL = ".ssh/authorized_keys .ssh/authorized_keys2"
"""sshd's own default for AuthorizedKeysFile."""
CODES_GROUP = "diycloud-codes"
"""A system group of the users whom PAM asks for a code (agent/sign_in.py): sshd tells them by it."""
_INCLUDE = re.compile(r"^\s*Include\s+.*sshd_config\.d/\*\.conf", re.IGNORECASE | re.MULTILINE)
_SETTING = re.compile(r"^authorizedkeysfile (.*)$", re.IGNORECASE | re.MULTILINE)
_PASSWORDS = re.compile(r"^passwordauthentication yes$", re.IGNORECASE | re.MULTILINE)
_RUNTIME = "/run/sshd"


def render_keys(keys: Sequence[str], networks: Sequence[str]) -> str:
    """Return the file's text. keys: lines without options; networks: where they are good from, none means anywhere."""
    option = f'from="{",".join(networks)}" ' if networks else ""
    return "".join(f"{option}{key}\n" for key in keys)


def ensure_keys(
    system: System, folder: Path, name: str, gid: int, *, keys: Sequence[str], networks: Sequence[str]
) -> bool:
    """Make a user's file have these keys and no others; without any there is no file. True if anything changed."""
    if not keys:
        return system.remove(folder / name)
    system.make_dir(folder, mode=0o755)
    return system.write(folder / name, render_keys(keys, networks), mode=0o640, owner=Owner(0, gid))


def ensure_sshd(system: System, folder: Path, sshd: str) -> bool:
    """Have sshd read the folder beside the files it reads already. True if its settings changed: reload it then.

    sshd: the program, asked for what is in force and whether it can live with the new settings. Raises Unsupported where
    there is no sshd or it has no folder of settings, HostError if it refuses (its settings are then as they were).
    """
    if not system.exists(sshd):
        raise Unsupported("There is no SSH server, so keys open nothing; install again once there is one.")
    if not _INCLUDE.search(system.read(SSHD_CONFIG) or ""):
        raise Unsupported(
            f"{SSHD_CONFIG} includes no folder of settings, so users' keys are not read.",
            f"Add {folder}/%u to its AuthorizedKeysFile by hand.",
        )
    before = system.read(DROP_IN)
    system.make_dir(_RUNTIME)  # sshd -T asks for it, and the distribution makes it only when the service starts
    if not system.write(DROP_IN, render_sshd(folder, system.query([sshd, "-T"]).stdout)):
        return False
    asked = system.query([sshd, "-t"])
    if not asked.ok:
        if before is None:
            system.remove(DROP_IN)
        else:
            system.write(DROP_IN, before)
        raise HostError(
            f"sshd refuses its settings: {asked.stderr.strip()[-300:]}", f"Mend {SSHD_CONFIG}, then install again."
        )
    return True


def render_sshd(folder: Path, in_force: str) -> str:
    """Return our settings for sshd. in_force: what `sshd -T` says, empty if it does not say."""
    ours = f"{folder}/%u"
    found = _SETTING.search(in_force)
    others = " ".join(word for word in (found[1] if found else USUAL).split() if word not in (ours, "none"))
    text = f"# Made by DIY Cloud: keys that users added there, beside their own files.\nAuthorizedKeysFile {ours} {others}\n"
    if _PASSWORDS.search(in_force):
        text += f"# Who has an app for codes is asked for one after the password.\nMatch Group {CODES_GROUP}\n"
        text += "    KbdInteractiveAuthentication yes\n"
    return text


def remove_sshd(system: System) -> bool:
    """Take our settings away. True if there were any: reload sshd then."""
    return system.remove(DROP_IN)
