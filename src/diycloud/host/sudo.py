"""One drop-in of sudo's: the users that root made administrators of the host.

It is checked by visudo before it takes the old one's place: a line that sudo cannot read would shut everybody out of it
(sudoers(5), "Including other files from within sudoers"; visudo(8), -c and -f).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from diycloud.errors import HostError, Unsupported
from diycloud.system.contract import PATH, System

FOLDER = Path("/etc/sudoers.d")
DROP_IN = FOLDER / "diycloud"
STAGED = FOLDER / ".diycloud.new"
"""Names with a dot are not read by sudo."""
_HEAD = "# Written by DIY Cloud: `diycloud user sudo NAME --grant`. Changes here are overwritten.\n"


def render_sudoers(names: Collection[str]) -> str:
    """Return the drop-in's text; a name is one of useradd's, which has nothing that sudoers would give a meaning."""
    return _HEAD + "".join(f"{name} ALL=(ALL:ALL) ALL\n" for name in sorted(names))


def ensure_sudoers(system: System, names: Collection[str]) -> bool:
    """Make these and no others administrators by our drop-in. True if it changed.

    Raises Unsupported without sudo, HostError for a text that visudo does not accept: then nothing was changed.
    """
    if not names:
        system.remove(STAGED)
        return system.remove(DROP_IN)
    if shutil.which("visudo", path=PATH) is None or not system.exists(FOLDER):
        raise Unsupported("sudo is not installed on this host.", "Install the package sudo, then try again.")
    text = render_sudoers(names)
    system.write(STAGED, text, mode=0o440)
    try:
        found = system.query(["visudo", "-c", "-q", "-f", str(STAGED)])
        if not found.ok:
            raise HostError(f"visudo does not accept the new drop-in: {(found.stderr or found.stdout).strip()[:300]}")
    finally:
        system.remove(STAGED)
    return system.write(DROP_IN, text, mode=0o440)
