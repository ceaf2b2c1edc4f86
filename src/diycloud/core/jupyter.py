"""`diycloud jupyter`: setting notebooks up, what runs of them, shared environments. On this very host, by root."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from diycloud.agent.client import call_blocking
from diycloud.agent.protocol import MAX_NOTEBOOKS, Notebook, ReadNotebooks
from diycloud.config import Paths
from diycloud.core import conda, kernels
from diycloud.core.environments import Environment, is_current
from diycloud.core.install import NOTEBOOK_STEPS, install
from diycloud.core.installation import Installation
from diycloud.core.lock import only_one
from diycloud.core.notebook_steps import hub_environment, lab_environment
from diycloud.core.operations import need_root
from diycloud.core.options import InstallOptions
from diycloud.core.services import HUB, LAUNCHER, ServiceState
from diycloud.core.steps import Printer
from diycloud.errors import DiyCloudError, InvalidInput, NotFound
from diycloud.system import Local, System


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
    with _plain_umask():
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


def create_env(
    paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool, with_conda: bool, channels: tuple[str, ...]
) -> kernels.Kernel:
    """Make a shared environment, by pip or by conda. sources: of pip's; channels: of conda's."""
    need_root()
    _check_options("conda" if with_conda else "pip", sources=sources, channels=channels)
    with _lock(paths) as host:
        if with_conda:
            program = _find_conda(host, paths)
            return kernels.create_with_conda(host, paths, name, packages, channels=channels, program=program)
        return kernels.create(host, paths, name, packages, sources=sources)


def install_env(
    paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool, channels: tuple[str, ...]
) -> kernels.Kernel:
    """Install packages into a shared environment, by what made it."""
    need_root()
    with _lock(paths) as host:
        kind = kernels.require(host, paths, name)
        _check_options(kind, sources=sources, channels=channels)
        if kind == "conda":
            program = _find_conda(host, paths)
            return kernels.install_with_conda(host, paths, name, packages, channels=channels, program=program)
        return kernels.install(host, paths, name, packages, sources=sources)


@contextlib.contextmanager
def _lock(paths: Paths) -> Iterator[System]:
    """Be the only one who changes environments."""
    with _plain_umask(), only_one(Local(), paths):
        yield Local()


@contextlib.contextmanager
def _plain_umask() -> Iterator[None]:
    """Have what pip and conda make be everybody's to read and root's alone to write, whatever root's own umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _check_options(kind: str, *, sources: bool, channels: tuple[str, ...]) -> None:
    if kind == "conda" and sources:
        raise InvalidInput("--sources is about pip: conda has no such packages.", "Leave it out.")
    if kind == "pip" and channels:
        raise InvalidInput(
            "--channel is about conda, and pip fills this environment.", "`env create --conda` has conda do it."
        )


def _find_conda(system: System, paths: Paths) -> Path:
    settings = Installation(system, InstallOptions(prefix=paths.prefix)).settings
    return conda.find_program(system, settings.notebooks.conda)


def remove_env(paths: Paths, name: str) -> None:
    need_root()
    with only_one(Local(), paths):
        kernels.remove(Local(), paths, name)


def list_envs(paths: Paths) -> list[kernels.Kernel]:
    return kernels.list_kernels(Local(), paths)
