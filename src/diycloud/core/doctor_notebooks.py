"""What `diycloud doctor` looks at for notebooks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Literal, NamedTuple

from diycloud.config_notebooks import NotebookSettings
from diycloud.core.environments import is_current
from diycloud.core.installation import Installation
from diycloud.core.kernels import list_kernels
from diycloud.core.notebook_steps import hub_environment, lab_environment
from diycloud.errors import DiyCloudError

_SETUP = "Run `diycloud jupyter setup`: it makes what is missing or old, and keeps what is there."


class Finding(NamedTuple):
    """As doctor's own. advice: what to do; empty when all is well."""

    result: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


def examine_notebooks(here: Installation) -> Iterator[Finding]:
    """Look at the environments, the hub's account and secrets, and the shared environments."""
    if not here.settings.notebooks.enabled:
        yield Finding("ok", "not wanted here (notebooks.enabled)")
        return
    for name, environment in (("hub", hub_environment(here)), ("lab", lab_environment(here))):
        try:
            current = is_current(here.system, environment)
        except DiyCloudError as error:
            yield Finding("fail", error.message, error.hint)
            continue
        if not current:
            there = here.system.exists(environment.python)
            what = "is not as this version and the settings want it" if there else "is not there"
            yield Finding("warn" if there else "fail", f"the {name} environment {what}", _SETUP)
        else:
            yield Finding("ok", f"the {name} environment is whole")
    yield from _account(here)
    yield from _secrets(here)
    yield from _own_name(here)
    yield from _profiles(here.settings.notebooks)
    for kernel in list_kernels(here.system, here.paths):
        if kernel.problem:
            yield Finding("warn", f"the shared environment {kernel.name}: {kernel.problem}")


def _profiles(settings: NotebookSettings) -> Iterator[Finding]:
    if waiting := sorted(settings.profiles.keys() - settings.offered.keys()):
        yield Finding(
            "warn",
            f"nobody is offered the profile {' and '.join(waiting)}: containers need a gate, which this version has not",
            "Give it `kind: process` in notebooks.profiles, or leave it there for later.",
        )


def _account(here: Installation) -> Iterator[Finding]:
    held = here.system.query(["id", "-Gn", here.hub_user])
    missing = {here.server_user, here.table.nginx.group} - set(held.stdout.split())
    if not held.ok:
        yield Finding("fail", f"there is no account {here.hub_user}", _SETUP)
    elif missing:
        yield Finding("fail", f"{here.hub_user} is not in the group {' and '.join(sorted(missing))}", _SETUP)


def _own_name(here: Installation) -> Iterator[Finding]:
    """Look whether a host name of notebooks' own leads here. That Nginx answers there is part of the portal's check."""
    host, server = here.settings.notebooks.host, here.settings.server
    if not host:
        return
    lines = here.system.query(["getent", "ahosts", host]).stdout.splitlines()
    leads_to = {line.split()[0] for line in lines if line.strip()}
    if not leads_to:
        yield Finding(
            "fail", f"{host} (notebooks.host) leads nowhere", f"Give the name an address, as {server.name} has."
        )
    elif not leads_to & {*here.identity.addresses, "127.0.0.1", "127.0.1.1", "::1"}:
        detail = f"{host} (notebooks.host) leads to {', '.join(sorted(leads_to))}, which is no address of this host"
        yield Finding(
            "warn", detail, "Right where something in front of this host hands on; else change where it leads."
        )
    else:
        yield Finding("ok", f"{host} leads to this host")
    if not server.host_name:
        detail = f"people are sent from {host} to {server.name} to sign in, which is only what this host calls itself"
        yield Finding("warn", detail, "Set server.host_name to the portal's name that people type.")


def _secrets(here: Installation) -> Iterator[Finding]:
    paths = here.paths
    owners = {paths.hub_client: here.hub_user, paths.hub_token: here.hub_user, paths.portal_token: here.server_user}
    sound = True
    for path, user in owners.items():
        owner = here.account(user)
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            sound = False
            yield Finding("fail", f"{path} is not there", _SETUP)
            continue
        if owner is None or not stat.S_ISREG(info.st_mode) or info.st_uid != owner.uid or info.st_mode & 0o077:
            sound = False
            yield Finding("fail", f"{path} must be a file that {user} alone can read", _SETUP)
    if sound:
        same = here.system.read(paths.hub_token) == here.system.read(paths.portal_token)
        yield (
            Finding("ok", "hub and portal know each other")
            if same
            else Finding("fail", "the server's token is not the hub's", _SETUP)
        )
