"""`diycloud jupyter`: setting notebooks up, what runs of them, shared environments, backups. On this very host, by root."""

from __future__ import annotations

import re
import time
from pathlib import Path

import msgspec

from diycloud.agent.client import call_blocking
from diycloud.agent.protocol import MAX_NOTEBOOKS, Notebook, ReadNotebooks
from diycloud.agent.registry import Registry
from diycloud.config import Paths
from diycloud.core import kernels
from diycloud.core.environments import Environment, is_current
from diycloud.core.install import NOTEBOOK_STEPS, install
from diycloud.core.installation import Installation
from diycloud.core.lock import only_one
from diycloud.core.notebook_steps import hub_environment, lab_environment
from diycloud.core.operations import need_root
from diycloud.core.options import InstallOptions
from diycloud.core.services import HUB, LAUNCHER, ServiceState
from diycloud.core.steps import Printer
from diycloud.errors import DiyCloudError, NotFound, Unsupported
from diycloud.host.accounts import HostAccounts
from diycloud.host.archive import Archive, pack_folder
from diycloud.host.slices import detect_slices
from diycloud.system import Local, Owner, System
from diycloud.system.dry_run import DryRun


class EnvironmentState(msgspec.Struct, frozen=True):
    """One environment. versions: of what people ask for first; current: as this program and the settings want it."""

    name: str
    folder: str
    versions: dict[str, str]
    current: bool


class JupyterStatus(msgspec.Struct, frozen=True):
    """What there is of notebooks. running, failed: servers; problem: why that could not be told; address: where they are."""

    enabled: bool
    services: list[ServiceState]
    environments: list[EnvironmentState]
    kernels: list[kernels.Kernel]
    running: int = 0
    failed: int = 0
    problem: str = ""
    address: str = ""


def setup(paths: Paths, out: Printer, *, dry_run: bool = False) -> int:
    """Set notebooks up where the platform is installed, or have them follow the settings; returns the exit status."""
    need_root()
    if not paths.state.exists():
        raise NotFound("DIY Cloud is not set up here.", "Run `sudo ./install.sh`: notebooks are part of it.")
    options = InstallOptions(prefix=paths.prefix, dry_run=dry_run, with_notebooks=True)
    return install(Local(), options, out, NOTEBOOK_STEPS)


def status(paths: Paths, system: System | None = None) -> JupyterStatus:
    """Return what there is of notebooks here."""
    need_root()
    host = system or Local()
    here = Installation(host, InstallOptions(prefix=paths.prefix))
    if not here.settings.notebooks.enabled:
        return JupyterStatus(False, [], [], kernels.list_kernels(host, paths))
    services = [state for state in here.platform.states() if state.name in (HUB, LAUNCHER)]
    running = failed = 0
    problem = ""
    try:
        servers = read_servers(paths)
        running, failed = (sum(server.state == state for server in servers) for state in ("running", "failed"))
    except DiyCloudError as error:
        problem = str(error)
    return JupyterStatus(
        True,
        services,
        [
            _state(host, "hub", hub_environment(here), ("jupyterhub", "oauthenticator")),
            _state(host, "lab", lab_environment(here), ("jupyterlab", "jupyterhub", "ipykernel", "numpy", "pandas")),
        ],
        kernels.list_kernels(host, paths),
        running,
        failed,
        problem,
        f"{here.settings.notebooks_address or here.address.rstrip('/')}/jupyter/",
    )


def _state(system: System, name: str, environment: Environment, shown: tuple[str, ...]) -> EnvironmentState:
    versions = {}
    for entry in system.list_dir(environment.site_packages):
        match = re.match(r"(.+)-([^-]+)\.dist-info\Z", entry)
        if match and match[1] in shown:
            versions[match[1]] = match[2]
    return EnvironmentState(name, str(environment.folder), versions, is_current(system, environment))


def read_servers(paths: Paths) -> list[Notebook]:
    """Return all notebook servers that the agent knows. Raises Unavailable if it does not answer."""
    found: list[Notebook] = []
    after = ""
    while True:
        part = call_blocking(paths.agent_socket, ReadNotebooks(after=after), list[Notebook], deadline=10)
        found += part
        if len(part) < MAX_NOTEBOOKS:
            return found
        last = part[-1]
        after = f"{last.name}+{last.server}" if last.server else last.name


# -- shared environments


def create_env(paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool) -> kernels.Kernel:
    need_root()
    with only_one(Local(), paths):
        return kernels.create(Local(), paths, name, packages, sources=sources)


def install_env(paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool) -> kernels.Kernel:
    need_root()
    with only_one(Local(), paths):
        return kernels.install(Local(), paths, name, packages, sources=sources)


def remove_env(paths: Paths, name: str) -> None:
    need_root()
    with only_one(Local(), paths):
        kernels.remove(Local(), paths, name)


def list_envs(paths: Paths) -> list[kernels.Kernel]:
    return kernels.list_kernels(Local(), paths)


# -- backup


def backup(paths: Paths, name: str, system: System | None = None) -> Archive:
    """Pack a user's `notebooks` folder, as the user and in the user's slice; kept beside the archives of homes, for root.

    Raises NotFound for others than managed users and where there is no such folder, HostError if it cannot be packed.
    """
    need_root()
    host = system or Local()
    agent = Installation(host, InstallOptions(prefix=paths.prefix)).settings.agent
    reader = DryRun(host, lambda _: None)
    registry = Registry(reader, paths.managed, uid_min=agent.uid_min, uid_max=agent.uid_max)
    registry.require_sound()
    entry = registry.get(name)
    live = HostAccounts(host).get(name)
    if entry is None or live is None or live.uid != entry.uid:
        raise NotFound(f"There is no user {name} on this host.", "`diycloud user list` shows them.")
    source = Path(agent.home) / name / "notebooks"
    if not source.is_dir() or source.is_symlink():
        raise NotFound(
            f"{name} has no folder {source}.", "It is made with the account, and again with the next notebook."
        )
    slices = detect_slices(host, agent.cgroup)
    within: list[str] = []
    if not isinstance(slices, Unsupported):
        slices.ensure(name, entry.uid, entry.limits)
        within = slices.within(name, entry.uid)
    owner = Owner(entry.uid, live.gid)
    return pack_folder(host, Path(agent.archive) / "notebooks", source, name, owner, within=within, now=time.time())
