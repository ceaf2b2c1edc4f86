"""Services as systemd units. Sources: systemd.service(5), systemd.exec(5), systemd.unit(5), tmpfiles.d(5)."""

from __future__ import annotations

import re
from pathlib import Path

from diycloud.distro.render import render
from diycloud.distro.services import Service, check_service
from diycloud.errors import HostError
from diycloud.system import System

UNITS = Path("/etc/systemd/system")
TMPFILES = Path("/etc/tmpfiles.d")

_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]+\Z")


def quote(word: str, *, command: bool = True) -> str:
    """Return a word as a unit's command line or Environment= takes it: `%` and, in commands, `$` doubled, quoted."""
    word = word.replace("%", "%%")
    if command:
        word = word.replace("$", "$$")
    if _PLAIN.match(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_unit(service: Service) -> str:
    """Return the unit file of a service."""
    check_service(service)
    return render(
        "units/service.unit",
        description=service.description.replace("%", "%%"),
        after=" ".join(map(unit_name, service.after)),
        wants=" ".join(map(unit_name, service.wants)),
        command=" ".join(map(quote, service.command)),
        reload_signal=service.reload_signal,
        user=service.user,
        group=service.group,
        umask=f"{service.umask:04o}",
        environment=[quote(f"{key}={value}", command=False) for key, value in sorted(service.environment.items())],
        restart=service.restart.value,
        stop_signal=service.stop_signal,
        kill_mode="process" if service.leaves_children else "control-group",
        stop_seconds=service.stop_seconds,
        slice=service.slice,
        hardening=service.hardening.value,
        writable=service.writable,
        network=service.network,
        knows_users=service.knows_users,
    )


def render_tmpfiles(service: Service) -> str:
    """Return the tmpfiles.d file that makes a service's folders below /run at boot."""
    folders = [
        {"path": folder.path, "mode": f"{folder.mode:04o}", "user": folder.user, "group": folder.group}
        for folder in service.folders
    ]
    return render("units/tmpfiles.conf", name=service.name, folders=folders)


def unit_name(name: str) -> str:
    """Return the unit of a service's name; other units (`network.target`) keep theirs."""
    return name if "." in name else f"{name}.service"


class Systemd:
    """systemd as the init."""

    kind = "systemd"

    def __init__(self, system: System) -> None:
        self._system = system

    def ensure(self, service: Service) -> bool:
        unit = self._system.write(UNITS / unit_name(service.name), render_unit(service))
        if unit:
            self._systemctl("daemon-reload")
        folders = TMPFILES / f"{service.name}.conf"
        if service.folders and self._system.write(folders, render_tmpfiles(service)):
            self._system.run(["systemd-tmpfiles", "--create", str(folders)])
            return True
        return unit

    def remove(self, name: str) -> bool:
        if not self._system.exists(UNITS / unit_name(name)):
            return False
        self._systemctl("disable", "--now", unit_name(name))
        self._system.remove(TMPFILES / f"{name}.conf")
        self._system.remove(UNITS / unit_name(name))
        self._systemctl("daemon-reload")
        # A unit that had failed would stay listed; one that had not makes this exit 1.
        self._system.run(["systemctl", "reset-failed", unit_name(name)], ok=(0, 1))
        return True

    def start(self, name: str) -> None:
        self._see(name, "start")

    def stop(self, name: str) -> None:
        self._systemctl("stop", unit_name(name))

    def restart(self, name: str) -> None:
        self._see(name, "restart")

    def reload(self, name: str) -> None:
        self._systemctl("reload", unit_name(name))

    def enable(self, name: str) -> None:
        self._systemctl("enable", unit_name(name))

    def disable(self, name: str) -> None:
        self._systemctl("disable", unit_name(name))

    def is_active(self, name: str) -> bool:
        return self._system.query(["systemctl", "is-active", "--quiet", unit_name(name)]).ok

    def is_enabled(self, name: str) -> bool:
        return self._system.query(["systemctl", "is-enabled", "--quiet", unit_name(name)]).ok

    def log_lines(self, name: str, count: int = 20) -> list[str]:
        argv = ["journalctl", "--no-pager", "-q", "-o", "short-iso", "-n", str(count), "-u", unit_name(name)]
        return self._system.query(argv).stdout.splitlines()

    def _see(self, name: str, verb: str) -> None:
        try:
            self._systemctl(verb, unit_name(name))
        except HostError as error:
            lines = "\n".join(self.log_lines(name, 10))
            raise HostError(f"Service {name} did not {verb}: {error.message}\n{lines}") from error

    def _systemctl(self, *arguments: str) -> None:
        self._system.run(["systemctl", *arguments])
