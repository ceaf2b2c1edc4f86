"""What the platform verbs of the command line do, on this very host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec

from diycloud import config
from diycloud.config import Paths, Settings
from diycloud.core.installation import Installation
from diycloud.core.options import InstallOptions, options_from
from diycloud.core.services import ServiceState
from diycloud.core.steps import Printer
from diycloud.errors import DiyCloudError, PermissionDenied
from diycloud.system import Local


class Status(msgspec.Struct, frozen=True):
    """What runs. installed: there is a database; address: where people go; problem: why the database does not answer."""

    installed: bool
    address: str
    services: list[ServiceState]
    problem: str = ""


def need_root() -> None:
    """Raise PermissionDenied unless this is root."""
    if os.geteuid() != 0:
        raise PermissionDenied("This needs root.", "Run it with sudo.")


def install(given: Mapping[str, object], out: Printer) -> int:
    """Install, repair or upgrade; returns the exit status."""
    from diycloud.core.install import install as run

    return run(Local(), options_from(given), out)


def uninstall(given: Mapping[str, Any], out: Printer) -> int:
    """Take the platform off this host; returns the exit status."""
    from diycloud.core.uninstall import UninstallOptions
    from diycloud.core.uninstall import uninstall as run

    return run(Local(), UninstallOptions(**given), out)


def _here(paths: Paths) -> Installation:
    return Installation(Local(), InstallOptions(prefix=paths.prefix))


def up(paths: Paths) -> list[str]:
    """Start what does not run; returns the names of what was started."""
    need_root()
    return _here(paths).platform.up()


def down(paths: Paths) -> list[str]:
    """Stop the platform's own services; what users run goes on. Returns the names of what was stopped."""
    need_root()
    return _here(paths).platform.down()


def status(paths: Paths) -> Status:
    """Return what runs."""
    need_root()  # who starts the services tells only root without init
    here = _here(paths)
    return Status(paths.state.exists(), here.address, here.platform.states(), _problem(here))


def _problem(here: Installation) -> str:
    """Return why a database that is another program's does not answer; a file of the platform's own needs no asking."""
    if here.settings.server.database:
        from diycloud.core.install_steps import read_database

        try:
            read_database(here)
        except DiyCloudError as error:
            return str(error)
    return ""


def settings(paths: Paths) -> Settings:
    """Return the settings in force. Raises InvalidInput with file, line and key."""
    return config.load(paths.config)


def set_setting(paths: Paths, name: str, value: str) -> Settings:
    """Write one key of config.yaml, checked before; returns the settings. Raises InvalidInput."""
    from diycloud.core.settings_file import change_setting

    need_root()
    return change_setting(Local(), paths.config, name, value)
