"""What PAM's modules read of the platform's users at every sign-in: from where, and with which codes.

    access     pam_access(8): two lines for each user who may come from some networks only
    coded      pam_listfile(8): who is asked for a code, a name a line
    uncoded    pam_listfile(8): who may not sign in with a password alone, and has nothing that PAM could ask for
    codes/NAME pam_google_authenticator(8): the secret, and the time steps whose codes were taken

The folder is root's only. All of it works while the agent is down: these files are all that the modules need.
"""

from __future__ import annotations

import ipaddress
import re
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from diycloud.errors import InvalidInput
from diycloud.system.contract import System

SERVICE = "/etc/pam.d/diycloud"
"""Of programs that let the platform's users in (docs/how-to/pam.md). It is there where our lines are in PAM."""
WINDOW = 3
"""Codes that are taken: the one of now and one either side, as auth/totp.py has it."""
STEP_S = 30
"""Seconds of a time step (RFC 6238)."""
TRIES, TRIES_S = 5, 30
"""Codes that may be tried in so many seconds, by whoever has given the right password."""
STEPS_KEPT = 2 * WINDOW
_EVERYBODY = frozenset({"all", "except"})
"""Words that pam_access takes for no name, in any case."""
_GRANT = re.compile(r"\+:([a-z_][a-z0-9_-]*):(.*)")
_LOCAL = "LOCAL"
LOST = "?"
"""In the place of a secret that is lost: no wish has it, so that the next one brings it back."""


class Demands(NamedTuple):
    """What is asked of one user. networks: none means from anywhere; secret: of the codes, in base32, empty for none.

    uncoded: a password alone does not do, and there is no code to ask for.
    """

    networks: tuple[str, ...] = ()
    secret: str = ""
    uncoded: bool = False


NOTHING = Demands()
_NONE_USED: Mapping[str, int] = {}


class PamFiles:
    """The folder. Safe in threads; changes are few and small, so they simply follow each other."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._folder = folder
        self._lock = threading.Lock()

    def ensure_folder(self) -> bool:
        """Make the folder with empty lists, where they are missing. True if anything changed.

        Without them the users (nobody else) would be refused: a list that was lost is no reason to let them in.
        """
        changed = False
        for folder in reversed(self._folder.parents):
            if not self._system.exists(folder):
                changed |= self._system.make_dir(folder)
        changed |= self._system.make_dir(self._folder, mode=0o700)
        changed |= self._system.make_dir(self._codes, mode=0o700)
        for name in ("access", "coded", "uncoded"):
            if not self._system.exists(self._folder / name):
                changed |= self._system.write(self._folder / name, "", mode=0o600)
        return changed

    def read(self) -> dict[str, Demands]:
        """Return who is asked for anything, and for what."""
        networks = _parse_access(self._text("access"))
        coded, uncoded = (set(self._text(name).split()) for name in ("coded", "uncoded"))
        return {
            name: Demands(networks.get(name, ()), self._secret(name) if name in coded else "", name in uncoded)
            for name in networks.keys() | coded | uncoded
        }

    def ensure(self, wanted: Mapping[str, Demands], *, used: Mapping[str, int] = _NONE_USED) -> set[str]:
        """Make the files ask this of some users; the others stay. Returns the names of those that changed.

        used: the time step whose code was taken elsewhere, for a secret that is new here.
        Raises InvalidInput for a name that pam_access would take for everybody.
        """
        for name, demands in wanted.items():
            if demands.networks and name in _EVERYBODY:
                raise InvalidInput(f"The name {name} means everybody in access.conf(5), so it can have no networks.")
        with self._lock:
            before = self.read()
            changed = {name for name, demands in wanted.items() if before.get(name, NOTHING) != demands}
            if changed:
                self._write(before | {name: wanted[name] for name in changed}, changed, before, used)
        return changed

    def mend(self) -> None:
        """Write the lists anew if there is anything in them that is not understood, or one is gone."""
        with self._lock:
            now = self.read()
            self._write(now, set(), now, _NONE_USED)

    def spend(self, name: str, step: int, *, at: float) -> bool:
        """Note that the code of a time step was used elsewhere. False if it was used here: it is not to be taken.

        at: Unix seconds; a step that is far from it is not taken, or such ones would push those out that were used. True
        for a user without codes here.
        """
        with self._lock:
            text = self._system.read(self._codes / name)
            if text is None:
                return True
            secret, used = parse_codes(text)
            if step in used or abs(step - at // STEP_S) > WINDOW:
                return False
            self._system.write(self._codes / name, render_codes(secret, (*used, step), text), mode=0o600)
            return True

    @property
    def _codes(self) -> Path:
        return self._folder / "codes"

    def _text(self, name: str) -> str:
        return self._system.read(self._folder / name) or ""

    def _secret(self, name: str) -> str:
        """Return the secret of somebody who is asked for codes; one that nobody has if the file is lost or broken."""
        return parse_codes(self._system.read(self._codes / name) or "")[0] or LOST

    def _write(
        self,
        all_of_them: Mapping[str, Demands],
        changed: set[str],
        before: Mapping[str, Demands],
        used: Mapping[str, int],
    ) -> None:
        """Write what changed; a user who is asked for more is asked from the first write on."""
        self.ensure_folder()
        for name in changed:
            secret = all_of_them[name].secret
            if secret not in ("", LOST, before.get(name, NOTHING).secret):
                self._system.write(
                    self._codes / name, render_codes(secret, [used[name]] if used.get(name) else []), mode=0o600
                )
        lists = {
            "access": render_access({name: demands.networks for name, demands in all_of_them.items()}),
            "coded": "".join(f"{name}\n" for name, demands in sorted(all_of_them.items()) if demands.secret),
            "uncoded": "".join(f"{name}\n" for name, demands in sorted(all_of_them.items()) if demands.uncoded),
        }
        for name, text in lists.items():
            self._system.write(self._folder / name, text, mode=0o600)
        for name in changed:
            if not all_of_them[name].secret:
                self._system.remove(self._codes / name)


def render_access(networks: Mapping[str, Sequence[str]]) -> str:
    """Return the text of the access file. A user whose networks have the host itself may also come by su and console."""
    lines = []
    for name, allowed in sorted(networks.items()):
        if allowed:
            words = [*allowed, _LOCAL] if any(map(_is_own, allowed)) else allowed
            lines += [f"+:{name}:{' '.join(words)}\n", f"-:{name}:ALL\n"]
    return "".join(lines)


@lru_cache(maxsize=2)  # asked at each wish list, and the text is mostly the same
def _parse_access(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return name → networks. A line that the agent does not write is not understood, and so written anew."""
    granted = {}
    lines = text.splitlines()
    for line, after in pairwise(lines):
        if (match := _GRANT.fullmatch(line)) and after == f"-:{match[1]}:ALL":
            granted[match[1]] = tuple(word for word in match[2].split() if word != _LOCAL)
    return granted


def _is_own(network: str) -> bool:
    """Tell whether a network has the host itself in it."""
    try:
        return any(ipaddress.ip_address(own) in ipaddress.ip_network(network) for own in ("127.0.0.1", "::1"))
    except ValueError:
        return False


def render_codes(secret: str, used: Sequence[int], before: str = "") -> str:
    """Return a user's file as the module writes it. before: the text whose count of tries is kept."""
    tries = next((line for line in before.splitlines() if line.startswith('" RATE_LIMIT ')), None)
    lines = [
        secret,
        tries or f'" RATE_LIMIT {TRIES} {TRIES_S}',
        f'" WINDOW_SIZE {WINDOW}',
        " ".join(['" DISALLOW_REUSE', *map(str, sorted(set(used))[-STEPS_KEPT:])]),
        '" TOTP_AUTH',
    ]
    return "".join(f"{line}\n" for line in lines)


def parse_codes(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the secret and the steps that were used. What is no such file has neither."""
    secret, _, rest = text.partition("\n")
    used = next((line for line in rest.splitlines() if line.startswith('" DISALLOW_REUSE')), "")
    steps = tuple(int(word) for word in used.split()[2:] if word.isdecimal())
    return (secret, steps) if re.fullmatch(r"[A-Z2-7]{16,128}", secret) and '" TOTP_AUTH' in rest else ("", ())
