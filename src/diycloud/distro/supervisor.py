"""Services under supervisord, where no init runs. Source: supervisord.org, "Configuration File".

User, group and hardening are put on by setpriv(1) around the command, so that they do not depend on supervisord: STRICT
loses every capability and may gain none. Namespaces, system call filters, slices and order of start have no
equivalent here; Service.after is kept by starting services one by one.
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
from pathlib import Path

import msgspec

from diycloud.config import Paths
from diycloud.distro.render import render
from diycloud.distro.services import Folder, Hardening, Restart, Service, check_service
from diycloud.errors import HostError, InvalidInput
from diycloud.system import Result, System

_RESTART = {Restart.ALWAYS: "true", Restart.ON_FAILURE: "unexpected", Restart.NEVER: "false"}
_COMMENT = re.compile(r"\s[;#]")
_WAIT = (
    'for turn in $(seq 75); do state=$("$@" 2>&1) && exit 0; case $state in *FATAL*) break ;; esac; sleep 0.2; done; '
    'echo "$state" >&2; exit 1'
)
"""Waits up to 15 s for `supervisorctl status` to say RUNNING, which is its exit status 0."""
_END = 'for turn in $(seq 100); do [ -e "/proc/$1" ] || exit 0; sleep 0.1; done; kill -KILL "$1"'
_SETPRIV = "/usr/bin/setpriv"


def quote(word: str) -> str:
    """Return a word for `command`: split by shlex, `%` expanded, ` ;` and ` #` begin a comment whatever the quotes.

    Raises InvalidInput for a word with such a comment in it.
    """
    if _COMMENT.search(word) or word.startswith((";", "#")):
        raise InvalidInput(f"{word!r} would begin a comment in supervisord's configuration.")
    word = word.replace("%", "%%")
    if re.match(r"[A-Za-z0-9_@%+=:,./-]+\Z", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def render_program(service: Service, *, logs: Path, autostart: bool) -> str:
    """Return the configuration of one program. logs: folder of its log file."""
    check_service(service)
    return render(
        "supervisor/program.conf",
        name=service.name,
        description=service.description,
        command=" ".join(map(quote, [*_privileges(service), *service.command])),
        environment=",".join(f"{key}={_value(value)}" for key, value in sorted(service.environment.items())),
        umask=f"{service.umask:03o}",
        autostart=str(autostart).lower(),
        restart=_RESTART[service.restart],
        stop_signal=service.stop_signal,
        stop_seconds=service.stop_seconds,
        logs=logs,
    )


def _value(text: str) -> str:
    """Quote a value for `environment`, whose quotes know no escapes. Raises InvalidInput where neither kind will do."""
    mark = next((mark for mark in "\"'" if mark not in text), None)
    if mark is None or _COMMENT.search(text):
        raise InvalidInput(f"{text!r} cannot be written to supervisord's environment setting.")
    return mark + text.replace("%", "%%") + mark


def _privileges(service: Service) -> list[str]:
    identity = [f"--reuid={service.user}", f"--regid={service.group}", "--init-groups"]
    if service.hardening is Hardening.STRICT:
        return [_SETPRIV, *identity, "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--"]
    return [] if (service.user, service.group) == ("root", "root") else [_SETPRIV, *identity, "--"]


def _read_command_line(system: System, pid: str) -> str:
    try:
        return system.read(f"/proc/{pid}/cmdline") or ""
    except OSError:  # it ended meanwhile
        return ""


def _is_of(line: str, argv: list[str]) -> bool:
    """Tell whether a process has a command line, or has it in the title that Nginx gives itself."""
    return line == "\0".join([*argv, ""]) or line.rstrip("\0 ") == f"nginx: master process {' '.join(argv)}"


def _leads_its_own(system: System, pid: str) -> bool:
    """Tell whether a process is in the first group of a session of its own, which no service is (they share supervisord's).

    A notebook server is forked from the launcher, has its command line, and goes on when the launcher ends.
    """
    try:
        words = (system.read(f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    except OSError:  # it ended meanwhile
        return False
    return len(words) > 3 and words[2] == words[3]


def _is_in_container(system: System, pid: str) -> bool:
    """Tell whether a process has a pid of its own in a namespace within this one, where another platform may run."""
    try:
        status = system.read(f"/proc/{pid}/status") or ""
    except OSError:  # it ended meanwhile
        return False
    pids = re.search(r"(?m)^NSpid:(.*)$", status)
    return pids is not None and len(pids[1].split()) > 1


class Supervisor:
    """supervisord of the platform's own environment, its socket for root only.

    paths: where configuration, logs and socket are. programs: folder of supervisord and supervisorctl.
    """

    kind = "supervisor"

    def __init__(
        self,
        system: System,
        paths: Paths = Paths(),  # noqa: B008  # frozen
        *,
        programs: Path = Path(sys.executable).parent,
    ) -> None:
        self._system = system
        self._paths = paths
        self._programs = programs
        self._was_started = False
        self.config = paths.config_dir / "supervisor"
        self.run_dir = paths.run / "supervisor"

    def ensure(self, service: Service) -> bool:
        changed = self._ensure_base()
        path = self._program(service.name)
        text = render_program(service, logs=self._paths.logs, autostart=self.is_enabled(service.name))
        changed |= self._system.write(path, text)
        folders = msgspec.json.encode(service.folders).decode() + "\n"
        return self._system.write(self._folders(service.name), folders) or changed

    def _ensure_base(self) -> bool:
        for folder in (self._paths.config_dir, self._paths.logs, self._paths.run):
            if not self._system.exists(folder):
                self._system.make_dir(folder)
        for folder in (self.config, self.config / "conf.d", self.run_dir):
            self._system.make_dir(folder, mode=0o700)
        text = render("supervisor/supervisord.conf", run=self.run_dir, logs=self._paths.logs, config=self.config)
        return self._system.write(self._main, text)

    def remove(self, name: str) -> bool:
        there = self._system.exists(self._program(name))
        if there:
            self.stop(name)
            self._end_orphan(name)
        self._system.remove(self._folders(name))
        self._system.remove(self._program(name))
        if there and self.is_up():
            self._control("update", name)
        return there

    def up(self) -> None:
        """Start supervisord, unless it runs. It starts the enabled services."""
        if self.is_up():
            return
        if not self._system.exists(self._paths.run):
            self._system.make_dir(self._paths.run)
        self._system.make_dir(self.run_dir, mode=0o700)
        for name in self.names():
            self._end_orphan(name)
            self._make_folders(name)
        self._system.run([str(self._programs / "supervisord"), "-c", str(self._main)])
        self._was_started = True

    def down(self) -> None:
        """Stop all services and supervisord itself; what they started for users goes on."""
        if not self.is_up():
            return
        self._control("shutdown", timeout=120)
        self._was_started = False
        ended = 'for turn in $(seq 600); do [ -e "$1" ] || exit 0; sleep 0.1; done; exit 1'
        self._system.run(["/bin/sh", "-c", ended, "wait", str(self.run_dir / "supervisord.pid")])

    def names(self) -> list[str]:
        """Return the services that have a configuration here."""
        files = self._system.list_dir(self.config / "conf.d")
        return [name.removesuffix(".conf") for name in files if name.endswith(".conf")]

    def is_up(self) -> bool:
        """Tell whether supervisord answers."""
        return self._was_started or (self._system.exists(self.run_dir / "supervisor.sock") and self._answer("pid").ok)

    def start(self, name: str) -> None:
        if self.is_up():
            self._make_folders(name)
        else:
            self.up()
        try:
            self._control("update", name)
            if self._state(name) not in ("STARTING", "RUNNING", "BACKOFF"):
                self._control("start", name)
            self._system.run(["/bin/sh", "-c", _WAIT, "wait", *self._ctl, "status", name])
        except HostError as error:
            lines = "\n".join(self.log_lines(name, 10))
            raise HostError(f"Service {name} did not start: {error.message}\n{lines}") from error

    def stop(self, name: str) -> None:
        if self.is_active(name):
            self._control("stop", name)

    def restart(self, name: str) -> None:
        self.stop(name)
        self.start(name)

    def reload(self, name: str) -> None:
        self._control("signal", "HUP", name)

    def enable(self, name: str) -> None:
        self._set_autostart(name, "true")

    def disable(self, name: str) -> None:
        self._set_autostart(name, "false")

    def is_active(self, name: str) -> bool:
        return self._state(name) in ("RUNNING", "STARTING")

    def _state(self, name: str) -> str:
        words = self._answer("status", name).stdout.split()
        return words[1] if words[:1] == [name] and len(words) > 1 else ""

    def is_enabled(self, name: str) -> bool:
        return "\nautostart = true\n" in (self._system.read(self._program(name)) or "")

    def log_lines(self, name: str, count: int = 20) -> list[str]:
        log = str(self._paths.logs / f"{name}.log")
        return self._system.query(["tail", "-n", str(count), "--", log]).stdout.splitlines()

    @property
    def _main(self) -> Path:
        return self.config / "supervisord.conf"

    def _program(self, name: str) -> Path:
        return self.config / "conf.d" / f"{name}.conf"

    def _folders(self, name: str) -> Path:
        return self.config / "conf.d" / f"{name}.folders"

    def _make_folders(self, name: str) -> None:
        """Make a service's folders below /run, as tmpfiles does at boot under systemd."""
        text = self._system.read(self._folders(name)) or "[]"
        for folder in msgspec.json.decode(text, type=tuple[Folder, ...]):
            owner = ["-o", folder.user, "-g", folder.group, "-m", f"{folder.mode:04o}"]
            self._system.run(["install", "-d", *owner, "--", folder.path])

    def _end_orphan(self, name: str) -> None:
        """End what a supervisord that was killed has left behind: it would run beside the service, or without it."""
        line = re.search(r"(?m)^command = (.*)$", self._system.read(self._program(name)) or "")
        argv = shlex.split(line[1].replace("%%", "%")) if line else []
        wanted = argv[argv.index("--") + 1 :] if argv[:1] == [_SETPRIV] else argv
        for pid in filter(str.isdigit, self._system.list_dir("/proc")):
            if not argv or not _is_of(_read_command_line(self._system, pid), wanted):
                continue
            if _leads_its_own(self._system, pid) or _is_in_container(self._system, pid):
                continue
            if self._system.kill(int(pid), signal.SIGTERM):
                self._system.run(["/bin/sh", "-c", _END, "end", pid])

    def _set_autostart(self, name: str, value: str) -> None:
        path = self._program(name)
        text = self._system.read(path)
        if text is None:
            raise HostError(f"There is no service {name}.")
        self._system.write(path, re.sub(r"(?m)^autostart = \w+$", f"autostart = {value}", text))

    def _control(self, *arguments: str, timeout: float = 120) -> None:
        self._system.run([*self._ctl, *arguments], timeout=timeout)

    def _answer(self, *arguments: str) -> Result:
        return self._system.query([*self._ctl, *arguments])

    @property
    def _ctl(self) -> list[str]:
        return [str(self._programs / "supervisorctl"), "-c", str(self._main)]
