"""The platform's processes: their descriptions, and starting, stopping and looking at them together."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from diycloud.config import Paths, Settings
from diycloud.distro.detect import Init
from diycloud.distro.services import Folder, Hardening, Service, ServiceManager
from diycloud.distro.supervisor import Supervisor
from diycloud.distro.tables import Family
from diycloud.system import System

AGENT = "diycloud-agent"
SERVER = "diycloud-server"
LAUNCHER = "diycloud-launcher"
HUB = "diycloud-hub"
OURS = (AGENT, SERVER, LAUNCHER, HUB)
"""What runs this program and is started again for a new one; nothing that users run ends by it."""
RENEWAL = "diycloud-renewal"
_SUPERVISED_NGINX = "nginx"


class ServiceState(msgspec.Struct, frozen=True):
    """One service as `diycloud status` shows it. enabled: it starts by itself."""

    name: str
    active: bool
    enabled: bool


def agent_service(paths: Paths, settings: Settings) -> Service:
    """Return the agent's description (docs/explanation/agent.md says why it keeps the host's mounts)."""
    return Service(
        name=AGENT,
        description="DIY Cloud: agent, makes accounts and limits on this host",
        command=_python("diycloud.agent.main", paths),
        environment=_ENVIRONMENT,
        hardening=Hardening.HOST,
        folders=(
            Folder(str(paths.run), "root", "root", 0o755),
            Folder(str(paths.agent_socket.parent), "root", settings.agent.server_user, 0o750),
        ),
        leaves_children=True,
        umask=0o022,
    )


def server_service(paths: Paths, settings: Settings, nginx_group: str) -> Service:
    """Return the server's description. Its socket belongs to Nginx's group, because its folder is setgid."""
    user = settings.agent.server_user
    return Service(
        name=SERVER,
        description="DIY Cloud: server, the portal and the REST API",
        command=_python("diycloud.web.main", paths),
        user=user,
        group=user,
        environment=_ENVIRONMENT,
        hardening=Hardening.STRICT,
        folders=(
            Folder(str(paths.run), "root", "root", 0o755),
            Folder(str(paths.server_socket.parent), user, nginx_group, 0o2750),
        ),
        writable=(str(paths.state), str(paths.server_socket.parent)),
        after=(AGENT, *(("postgresql.service",) if settings.server.database else ())),
        wants=(AGENT,),
        network=settings.sign_in.is_used or _over_network(settings.server.database),
        knows_users=settings.notebooks.enabled,
    )


def _over_network(url: str) -> bool:
    """Tell whether a database's URL leads off this machine's Unix sockets (libpq's "Connection URIs")."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    hosts = [parts.netloc.rpartition("@")[2], *query.get("host", ()), *query.get("hostaddr", ())]
    return any(host and not unquote(host).startswith("/") for host in hosts)


def launcher_service(paths: Paths) -> Service:
    """Return the description of what starts notebook servers. What it starts inherits no hardening, so it has none."""
    return Service(
        name=LAUNCHER,
        description="DIY Cloud: launcher, starts users' notebook servers when the agent asks",
        command=_python("diycloud.launcher", paths, paths.lab_environment / "bin" / "python"),
        # What it imports makes folders in the home: not in root's.
        environment={**_ENVIRONMENT, "HOME": str(paths.launcher_socket.parent)},
        folders=(
            Folder(str(paths.run), "root", "root", 0o755),
            Folder(str(paths.launcher_socket.parent), "root", "root", 0o700),
        ),
        leaves_children=True,
        umask=0o022,
    )


def hub_service(paths: Paths, settings: Settings) -> Service:
    """Return the hub's description. It reaches the agent, the server and users' servers through its account's groups."""
    user = settings.notebooks.hub_user
    return Service(
        name=HUB,
        description="DIY Cloud: JupyterHub, users' notebooks",
        command=_python("diycloud.hub.main", paths, paths.hub_environment / "bin" / "python"),
        user=user,
        group=user,
        environment={**_ENVIRONMENT, "HOME": str(paths.hub_state)},
        hardening=Hardening.STRICT,
        folders=(
            Folder(str(paths.run), "root", "root", 0o755),
            Folder(str(paths.hub_socket.parent), user, user, 0o755),
        ),
        writable=(str(paths.hub_state), str(paths.hub_socket.parent)),
        after=(AGENT, SERVER, LAUNCHER),
        wants=(AGENT, SERVER, LAUNCHER),
        knows_users=True,
    )


def nginx_service(table: Family) -> Service:
    """Return Nginx's description for a host without init; elsewhere the distribution's own unit is used."""
    return Service(
        name=_SUPERVISED_NGINX,
        description="Nginx, for a host without init",
        command=(table.nginx.binary, "-c", table.nginx.config, "-g", "daemon off;"),
        reload_signal="HUP",
        stop_signal="QUIT",
        umask=0o022,
    )


_ONCE_A_DAY = (
    """trap '[ -z "$child" ] || kill "$child"; exit 0' TERM; child=; """
    """while :; do "$@"; sleep 86400 & child=$!; wait "$child"; child=; done"""
)
"""Waits in a shell: an interpreter that sleeps all day would hold ten times the memory."""


def renewal_service(paths: Paths) -> Service:
    """Return the description of what renews the certificate (renewal.py)."""
    return Service(
        name=RENEWAL,
        description="DIY Cloud: renews the certificate",
        command=("/bin/sh", "-c", _ONCE_A_DAY, "once-a-day", *_python("diycloud.core.renewal", paths)),
        environment=_ENVIRONMENT,
        hardening=Hardening.NONE,  # `nginx -t` opens its listening sockets
        umask=0o022,
    )


_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"}


def _python(module: str, paths: Paths, interpreter: Path | None = None) -> tuple[str, ...]:
    """Return the command line of one of our modules: isolated from users' site folders and PYTHON* variables.

    interpreter: of an environment of its own; else the platform's.
    """
    prefix = () if paths.prefix == "/" else ("--prefix", paths.prefix)
    return (str(interpreter or sys.executable), "-I", "-u", "-m", module, *prefix)


class Platform:
    """The platform's services on this host, in the order they are started."""

    def __init__(
        self, system: System, manager: ServiceManager, init: Init, table: Family, paths: Paths, settings: Settings
    ) -> None:
        self._system = system
        self._manager = manager
        self._init = init
        self._table = table
        self._paths = paths
        self._settings = settings

    @property
    def nginx(self) -> str:
        """The name of the service that runs Nginx."""
        return _SUPERVISED_NGINX if self._init is Init.NONE else self._table.service_name("nginx")

    @property
    def names(self) -> tuple[str, ...]:
        """The services, in the order they are started."""
        notebooks = (LAUNCHER, HUB) if self._settings.notebooks.enabled else ()
        return (AGENT, SERVER, *notebooks, self.nginx, RENEWAL)

    def ensure(self) -> list[str]:
        """Write and enable the services, and end those that the settings do not want. Returns those that changed."""
        services = [
            agent_service(self._paths, self._settings),
            server_service(self._paths, self._settings, self._table.nginx.group),
            renewal_service(self._paths),
        ]
        if self._settings.notebooks.enabled:
            services += [launcher_service(self._paths), hub_service(self._paths, self._settings)]
        if self._init is Init.NONE:
            services.append(nginx_service(self._table))
        changed = []
        for service in services:
            if self._manager.ensure(service):
                changed.append(service.name)
        for name in self.names:
            if not self._manager.is_enabled(name):
                self._manager.enable(name)
        if not self._settings.notebooks.enabled:
            changed += [name for name in (HUB, LAUNCHER) if self._manager.remove(name)]
        return changed

    def up(self, *, restart: Collection[str] = ()) -> list[str]:
        """Start what does not run; start those in restart again, so that a new program runs. Returns what was started."""
        self._take_over_nginx()
        # A supervisor that is not there yet starts everything at once; each is then only waited for.
        fresh = isinstance(self._manager, Supervisor) and not self._manager.is_up()
        started = []
        for name in self.names:
            if fresh or not self._manager.is_active(name):
                self._manager.start(name)
            elif name in restart:
                self._manager.restart(name)
            else:
                continue
            started.append(name)
        return started

    def down(self, *, nginx: bool = False) -> list[str]:
        """Stop ours, the last started first. What users run goes on. nginx: also Nginx, which may serve other sites.

        Without init the supervisor itself ends, so everything it started stops.
        """
        stopped = []
        for name in reversed(self.names):
            if self._manager.is_active(name) and (nginx or name != self.nginx or isinstance(self._manager, Supervisor)):
                self._manager.stop(name)
                stopped.append(name)
        if isinstance(self._manager, Supervisor):
            self._manager.down()
        return stopped

    def reload_nginx(self) -> None:
        """Have Nginx take up its sites, if it runs."""
        if self._manager.is_active(self.nginx):
            self._manager.reload(self.nginx)

    def states(self) -> list[ServiceState]:
        """Return how each service fares."""
        return [
            ServiceState(name, self._manager.is_active(name), self._manager.is_enabled(name)) for name in self.names
        ]

    def last_words(self, name: str) -> str:
        """Return the last line a service logged; empty if there is none."""
        return next(iter(self._manager.log_lines(name, 1)), "")

    def remove(self) -> None:
        """Stop ours and remove their descriptions; without init also the supervisor that ran them."""
        supervised = (_SUPERVISED_NGINX,) if self._init is Init.NONE else ()
        for name in (RENEWAL, *supervised, HUB, LAUNCHER, SERVER, AGENT):
            self._manager.remove(name)
        if isinstance(self._manager, Supervisor):
            self._manager.down()

    def give_back_nginx(self) -> bool:
        """Start the Nginx that ran before ours took its place, after ours has ended. True if there was one.

        Raises HostError if it does not start. With systemd there is one Nginx, which goes on.
        """
        if not self._system.exists(self._nginx_before):
            return False
        if not self._others_nginx():
            start = [self._table.nginx.binary, "-c", self._table.nginx.config]
            self._system.run([*start, "-t", "-q"])
            # Its standard error may be its log: a pipe would be waited for.
            self._system.run(["/bin/sh", "-c", 'exec "$@" > /dev/null 2>&1', "start", *start])
        self._system.remove(self._nginx_before)
        return True

    def _take_over_nginx(self) -> None:
        """Without init: end an Nginx that a package or a person started, as ours could not bind beside it.

        That there was one is written down for uninstall, unless it is ours, left behind by a supervisor that was killed.
        """
        if self._init is not Init.NONE or not (pid := self._others_nginx()):
            return
        title = (self._system.read(f"/proc/{pid}/cmdline") or "").strip("\0 ")
        if not title.endswith(" ".join(nginx_service(self._table).command)):
            self._system.write(self._nginx_before, f"{title}\n")
        self._system.run([self._table.nginx.binary, "-c", self._table.nginx.config, "-s", "quit"])
        still = f"while [ -e /proc/{pid} ]; do sleep 0.1; done"
        self._system.run(["timeout", "30", "sh", "-c", still])

    def _others_nginx(self) -> str:
        """Return the process number of an Nginx that is not the service, empty if none runs."""
        pid = (self._system.read("/run/nginx.pid") or "").strip()
        runs = pid.isdigit() and (self._system.read(f"/proc/{pid}/comm") or "").strip() == "nginx"
        return pid if runs and not self._manager.is_active(self.nginx) else ""

    @property
    def _nginx_before(self) -> Path:
        """Holds how the Nginx called itself whose place ours took."""
        return self._paths.config_dir / "nginx-before"
