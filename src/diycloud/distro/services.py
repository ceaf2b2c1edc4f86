"""Services: a typed description, and the managers that run it.

Systemd where it is the init (systemd.py), Supervisor where no init runs (supervisor.py). Each makes what it can of a
description; what has no equivalent there is said in its docstring.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Protocol

import msgspec

from diycloud.distro.detect import HostFacts, Init
from diycloud.errors import InvalidInput, Unsupported
from diycloud.system import System


class Restart(StrEnum):
    """When a service that ended is started again."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "no"


class Hardening(StrEnum):
    """What a service is kept from.

    HOST: it changes the host, so it keeps the host's mounts and network namespace, and loses the rest.
    STRICT: Unix sockets and its own folders; no capability, no network, no device, no view of others' processes.
    """

    NONE = "none"
    HOST = "host"
    STRICT = "strict"


class Folder(msgspec.Struct, frozen=True):
    """A folder below /run that is made before the service starts, with its owner by name."""

    path: str
    user: str = "root"
    group: str = "root"
    mode: int = 0o755


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be run.

    command: argv, its program by absolute path. writable: folders a STRICT service may change.
    reload_signal, stop_signal: without SIG. stop_seconds: from the stop signal to SIGKILL.
    leaves_children: stopping ends the service's own process only, not what it started for users.
    network: a STRICT service that must reach other machines all the same. knows_users: a STRICT service that tells its callers
    apart by their account (SO_PEERCRED): in a user namespace of its own, all but root's and its own would be one.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,50}\Z")]
    description: str
    command: tuple[str, ...]
    user: str = "root"
    group: str = "root"
    environment: Mapping[str, str] = {}
    restart: Restart = Restart.ALWAYS
    hardening: Hardening = Hardening.NONE
    folders: tuple[Folder, ...] = ()
    writable: tuple[str, ...] = ()
    slice: str = ""
    after: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    reload_signal: str = ""
    stop_signal: str = "TERM"
    stop_seconds: int = 20
    leaves_children: bool = False
    network: bool = False
    knows_users: bool = False
    umask: int = 0o077


_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def check_service(service: Service) -> None:
    """Raise InvalidInput for a description that no configuration file could hold."""
    msgspec.convert(service.name, Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,50}\Z")])
    if not service.command or not service.command[0].startswith("/"):
        raise InvalidInput(f"Service {service.name}: its program needs an absolute path.")
    texts = (service.description, service.user, service.group, *service.command, *service.environment.values())
    if any(_CONTROL.search(text) for text in texts):
        raise InvalidInput(f"Service {service.name}: control characters cannot be written to its configuration.")
    for name in service.environment:
        if not _ENVIRONMENT_NAME.match(name):
            raise InvalidInput(f"Service {service.name}: {name!r} is no name of an environment variable.")


class ServiceManager(Protocol):
    """What the platform asks of whatever starts services. Names are without `.service`."""

    kind: str

    def ensure(self, service: Service) -> bool:
        """Write the service's configuration. True if it changed; what runs is left alone until it is restarted."""

    def remove(self, name: str) -> bool:
        """Stop a service, disable it and remove its configuration. True if there was one."""

    def start(self, name: str) -> None:
        """Start a service and see it running. Raises HostError with its last log lines."""

    def stop(self, name: str) -> None:
        """Stop a service, if it runs."""

    def restart(self, name: str) -> None:
        """Stop and start a service."""

    def reload(self, name: str) -> None:
        """Have a service read its settings again without stopping."""

    def enable(self, name: str) -> None:
        """Have a service started at boot (systemd) or with the supervisor."""

    def disable(self, name: str) -> None:
        """Undo enable. What runs goes on."""

    def is_active(self, name: str) -> bool:
        """Tell whether a service runs."""

    def is_enabled(self, name: str) -> bool:
        """Tell whether a service starts by itself."""

    def log_lines(self, name: str, count: int = 20) -> list[str]:
        """Return the last lines a service logged."""


def service_manager(facts: HostFacts, system: System) -> ServiceManager:
    """Return the host's service manager. Raises Unsupported for an init that this program cannot drive."""
    from diycloud.distro.supervisor import Supervisor
    from diycloud.distro.systemd import Systemd

    if facts.init is Init.SYSTEMD:
        return Systemd(system)
    if facts.init is Init.NONE:
        return Supervisor(system)
    raise Unsupported(
        f"Services under {facts.init} cannot be managed by this version.",
        "systemd, and hosts where no init runs, are supported.",
    )
