"""What the steps of an installation share: the host as it was found, the settings, and what is to be told at the end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path

import msgspec

from diycloud import config
from diycloud.agent.registry import DEFAULT_LIMITS
from diycloud.config import Paths, Settings
from diycloud.core import certificates
from diycloud.core.names import host_name, in_url
from diycloud.core.nginx import Nginx, Site, notebook_places
from diycloud.core.options import InstallOptions
from diycloud.core.probe import Fault
from diycloud.core.services import Platform
from diycloud.core.steps import Printer
from diycloud.distro.detect import HostFacts, Init, detect
from diycloud.distro.network import Identity, read_identity
from diycloud.distro.packages import NoPackages, PackageManager, package_manager
from diycloud.distro.services import service_manager
from diycloud.distro.tables import Family, family
from diycloud.errors import HostError
from diycloud.host.pam import Hook
from diycloud.system import Owner, System
from diycloud.system.dry_run import DryRun

_NOT_YET = Owner(65534, 65534)
_STANDS_FOR = "uid 65534 stands for a service account that is not there yet."


class FirstAdministrator(msgspec.Struct, frozen=True):
    """What diycloud.users.first_admin prints. created: False if the portal had an administrator already."""

    username: str
    password: str | None
    created: bool


class Installation:
    """One run. Facts are read when first asked for."""

    def __init__(self, system: System, options: InstallOptions) -> None:
        self.system = system
        self.options = options
        self.paths = Paths(options.prefix)
        self.notes: list[str] = []
        self.administrator: FirstAdministrator | None = None
        self.changed: set[str] = set()
        """What changed in this run: `nginx`, names of services."""

    @property
    def dry(self) -> bool:
        return isinstance(self.system, DryRun)

    @cached_property
    def facts(self) -> HostFacts:
        return detect(self.system)

    @cached_property
    def table(self) -> Family:
        return family(self.facts.distribution.family)

    @cached_property
    def identity(self) -> Identity:
        return read_identity(self.system)

    @cached_property
    def packages(self) -> PackageManager:
        return NoPackages() if self.options.without_packages else package_manager(self.facts, self.system)

    @property
    def settings(self) -> Settings:
        """The settings as the file says now; the options of this run stand above it (a dry run has not written them)."""
        server = {
            key: value
            for key, value in (
                ("host_name", self.options.domain),
                ("https_port", self.options.https_port),
                ("http_port", self.options.http_port),
            )
            if value
        }
        found = config.load(self.paths.config)
        notebooks = found.notebooks
        if self.notebooks_chosen is not None:
            notebooks = msgspec.structs.replace(notebooks, enabled=self.notebooks_chosen)
        server_settings = msgspec.structs.replace(found.server, **server)
        return msgspec.structs.replace(found, server=server_settings, notebooks=notebooks)

    @property
    def notebooks_chosen(self) -> bool | None:
        """Whether this run was told to set notebooks up, or not to; None: the settings say."""
        if self.options.without_notebooks:
            return False
        return True if self.options.with_notebooks else None

    @cached_property
    def platform(self) -> Platform:
        manager = service_manager(self.facts, self.system)
        return Platform(self.system, manager, self.facts.init, self.table, self.paths, self.settings)

    @property
    def nginx(self) -> Nginx:
        return Nginx(self.system, self.table.nginx, untouched=self.packages.is_untouched)

    @property
    def names(self) -> tuple[str, ...]:
        """What people may type for the portal, the best first: the domain, this host's name, its addresses, localhost."""
        wanted = [
            self.settings.server.host_name,
            self.identity.name,
            *self.identity.addresses,
            "localhost",
            "127.0.0.1",
        ]
        found = dict.fromkeys(host_name(name) for name in wanted if name)
        notebooks = self.settings.notebooks
        if notebooks.enabled:
            found.pop(notebooks.host, None)  # is notebooks' alone
        return tuple(found)

    @property
    def certified_names(self) -> tuple[str, ...]:
        """What the certificate names: all that people type, and the notebooks' own name."""
        notebooks = self.settings.notebooks
        own = [notebooks.host] if notebooks.enabled and notebooks.host else []
        return tuple(dict.fromkeys([*self.names, *own]))

    @property
    def site(self) -> Site:
        server, notebooks = self.settings.server, self.settings.notebooks
        return Site(
            names=self.names,
            https_port=server.https_port,
            http_port=server.http_port,
            socket=self.paths.server_socket,
            certificates=self.paths.certificates,
            static=Path(str(resources.files("diycloud.web"))) / "static",
            folder=self.paths.config_dir / "nginx",
            notebooks=notebook_places(self.paths, notebooks) if notebooks.enabled else None,
        )

    @property
    def guard_cache(self) -> Path:
        """Nginx's, in memory: what was said of who may see whose notebooks (core/nginx.py)."""
        return notebook_places(self.paths, self.settings.notebooks).guard_cache

    @property
    def hook(self) -> Hook:
        agent = self.settings.agent
        script = self.paths.config_dir / "pam" / "session"
        return Hook(
            script, self.paths.managed, agent.cgroup, agent.uid_min, agent.uid_max, DEFAULT_LIMITS, self.paths.sign_in
        )

    def reload_sshd(self) -> None:
        """Have a running SSH server read its settings again; sessions that are open stay."""
        if self.facts.init is Init.SYSTEMD:
            self.system.query(["systemctl", "reload", self.table.service_name("sshd")])
            return
        pid = (self.system.read("/run/sshd.pid") or "").strip()
        if pid.isdigit() and (self.system.read(f"/proc/{pid}/comm") or "").strip() == "sshd":
            self.system.kill(int(pid), signal.SIGHUP)

    @property
    def server_user(self) -> str:
        return self.settings.agent.server_user

    def account(self, name: str) -> Owner | None:
        """Return a POSIX account's numbers, None if there is none."""
        fields = self.system.query(["getent", "passwd", name]).stdout.strip().split(":")
        return Owner(int(fields[2]), int(fields[3])) if len(fields) > 3 else None

    @property
    def hub_user(self) -> str:
        return self.settings.notebooks.hub_user

    @property
    def server_owner(self) -> Owner:
        """The server's user. In a dry run it may not be there yet."""
        return self._owner(self.server_user)

    @property
    def hub_owner(self) -> Owner:
        """The hub's user. In a dry run it may not be there yet."""
        return self._owner(self.hub_user)

    def _owner(self, name: str) -> Owner:
        found = self.account(name)
        if found is None and not self.dry:
            raise HostError(f"There is no account {name}.", "Run the installation from its beginning.")
        if found is None and _STANDS_FOR not in self.notes:
            self.notes.append(_STANDS_FOR)
        return found or _NOT_YET

    def child(self, module: str, *arguments: str, user: Owner, input: str | None = None) -> str:
        """Run one of our modules as another user; returns what it printed. Raises HostError."""
        argv = [sys.executable, "-I", "-m", module, *arguments]
        if self.options.prefix != "/":
            argv += ["--prefix", self.options.prefix]
        return self.system.run(argv, input=input, user=user, cwd="/").stdout

    def probe(self, arguments: Sequence[str], *, wait: float = 0) -> Fault | None:
        """Run diycloud.core.probe, which waits so many seconds for answers. Returns what does not answer, None if all do."""
        argv = [sys.executable, "-I", "-m", "diycloud.core.probe", *arguments, "--wait", str(wait)]
        answer = self.system.run(argv, cwd="/", timeout=wait + 60, ok=(0, 1))
        if answer.status == 0:
            return None
        try:
            return msgspec.json.decode(answer.stdout, type=Fault)
        except msgspec.MsgspecError:
            raise HostError(f"Nobody could ask whether the platform answers: {answer.stderr.strip()[-500:]}") from None

    @property
    def address(self) -> str:
        """The address people open."""
        port = self.settings.server.https_port
        return f"https://{in_url(self._first_name)}{'' if port == 443 else f':{port}'}/"

    @property
    def _first_name(self) -> str:
        """A name that resolves elsewhere too: the domain if given, else the first address, else the host's name."""
        return self.settings.server.host_name or next(iter(self.identity.addresses), self.names[0])

    @property
    def pending_password(self) -> Path:
        """Holds the first administrator's one-time password until it was shown (0600, root)."""
        return self.paths.agent_state.parent / "first-password"

    def finish(self) -> None:
        """Forget the one-time password: it was shown."""
        self.system.remove(self.pending_password)

    def print_summary(self, out: Printer) -> None:
        """Print what people need first: address, administrator, password, certificate."""
        out("")
        out("DIY Cloud runs.")
        out(f"  Address        {self.address}")
        if self.administrator is not None:
            out(f"  Administrator  {self.administrator.username}")
            if self.administrator.password:
                out(
                    f"  Password       {self.administrator.password}   (once: a new one is chosen at the first sign-in)"
                )
            elif not self.administrator.created:
                out("  Password       as it was; a new one-time password: diycloud user set-password NAME")
        out(f"  Certificate    own authority: import {self.address}ca.crt, or accept the browser's warning once.")
        out(f"                 SHA-256 {certificates.fingerprint(self.system, self.paths.certificates)}")
        if self.settings.notebooks.enabled:
            out(
                f"  Notebooks      {self.address}notebooks   (for people with an account on this host: diycloud user create)"
            )
        out("  What runs      diycloud status        What is wrong   diycloud doctor")
