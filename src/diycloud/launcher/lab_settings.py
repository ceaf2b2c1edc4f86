"""How JupyterLab is set for a host that many share: what the launcher gives each server before it reads its owner's settings.

All of it is a beginning, which the owner's ~/.jupyter overrides: nothing here keeps one user from another (the slice, the
socket's permissions and the account do).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from jupyterlab.handlers.announcements import NeverCheckForUpdate
from traitlets.config import Config

from diycloud.launcher.request import Request, SliceFacts

LAB_FOLDER = Path(__file__).resolve().parent.parent / "templates" / "lab"
"""A folder of Jupyter's configuration path: `labconfig/` there has the defaults of the pages."""
_NO_SHELLS = {"nologin", "false", ""}
"""Of accounts that cannot sign in by SSH: they have notebooks, without terminals."""


def environment(request: Request, before: Mapping[str, str]) -> dict[str, str]:
    """Return what a server's environment has beside `before`: where Lab's defaults are, and the limits, as JupyterHub names them.

    Libraries that start a thread for each core of the machine would only wait for each other within a few cores' time, and
    take tasks from the user's limit.
    """
    paths = ":".join(part for part in (before.get("JUPYTER_CONFIG_PATH", ""), str(LAB_FOLDER)) if part)
    made = {"JUPYTER_CONFIG_PATH": paths}
    if request.slice.memory_limit:
        made["MEM_LIMIT"] = str(request.slice.memory_limit)
    if cores := request.slice.cpu_limit:
        made["CPU_LIMIT"] = f"{cores:g}"
        made["OMP_NUM_THREADS"] = before.get("OMP_NUM_THREADS") or str(math.ceil(cores))
    return made


def has_shell(shell: str) -> bool:
    """Tell whether a login shell runs commands."""
    return Path(shell).name not in _NO_SHELLS


def settings(request: Request) -> Config:
    """Return the settings of a server."""
    config = Config()
    _set_server(config, request.home, request.shell)
    _set_pages(config)
    _set_kernels(config, request.kills_file, request.kills_key)
    _set_resources(config, request.slice)
    return config


def _set_server(config: Config, home: Path, shell: str) -> None:
    config.ServerApp.root_dir = str(home)
    config.ServerApp.default_url = "/lab"
    config.ServerApp.open_browser = False
    config.ServerApp.terminals_enabled = has_shell(shell)
    config.ServerApp.terminado_settings = {"shell_command": [shell, "-l"]}
    config.ServerApp.jpserver_extensions = {"jupyter_resource_usage": False, "diycloud.launcher.resources": True}


def _set_pages(config: Config) -> None:
    config.LabApp.news_url = None  # hosts without a way out wait for it, and it tells an outsider who works here
    config.LabApp.check_for_updates_class = (
        NeverCheckForUpdate  # the administrator updates, not the reader of the notice
    )
    config.LanguageServerManager.autodetect = False  # an eighth of a second at each start, to find that there is none
    config.LabApp.extension_manager = "readonly"  # it would install into an environment that is not the user's


def _set_kernels(config: Config, kills_file: str, kills_key: str) -> None:
    config.KernelManager.transport = "ipc"
    config.ServerApp.kernel_spec_manager_class = "diycloud.launcher.kernels.KernelSpecs"
    config.MappingKernelManager.kernel_manager_class = "diycloud.launcher.memory_kills.NotebookKernelManager"
    config.ServerApp.kernel_websocket_connection_class = "diycloud.launcher.memory_kills.NotebookConnection"
    config.MappingKernelManager.cull_idle_timeout = (
        0  # the hub stops whole servers; a kernel that waits keeps its variables
    )
    config.MemoryKillRestarter.kills_file = kills_file
    config.MemoryKillRestarter.kills_key = kills_key or "oom_kill"


def _set_resources(config: Config, facts: SliceFacts) -> None:
    config.SliceUsage.memory = facts.memory
    config.SliceUsage.memory_limit = facts.memory_limit
    config.SliceUsage.cpu = facts.cpu
    config.SliceUsage.cpu_quota = facts.cpu_quota
    config.SliceUsage.cpu_limit = facts.cpu_limit
    config.ResourceUseDisplay.show_host_usage = False  # what others use is not this user's to see
