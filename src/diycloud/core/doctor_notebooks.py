"""What `diycloud doctor` looks at for notebooks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from diycloud.config_notebooks import NotebookSettings
from diycloud.core.environments import Environment, is_current
from diycloud.core.finding import Finding
from diycloud.core.installation import Installation
from diycloud.core.kernels import list_kernels
from diycloud.core.notebook_steps import CLIENT, callbacks, hub_environment, lab_environment
from diycloud.core.own_name import examine_own_name
from diycloud.core.probe import ask_json
from diycloud.core.routes import PREFIX
from diycloud.errors import DiyCloudError

_SETUP = "Run `diycloud jupyter setup`: it makes what is missing or old, and keeps what is there."
_NEEDED = {"hub": ("jupyterhub", "oauthenticator"), "lab": ("jupyterlab", "jupyter_server", "jupyterhub", "ipykernel")}
_HAS_ALL = """import sys
from importlib.util import find_spec
sys.exit(", ".join(name for name in sys.argv[1:] if find_spec(name) is None) or 0)"""
"""Looks whether packages are there, without the seconds that importing them takes."""


def examine_notebooks(here: Installation) -> Iterator[Finding]:
    """Look at the environments, the hub's account, secrets and sign-in, the settings, and the shared environments."""
    if not here.settings.notebooks.enabled:
        yield Finding("ok", "switched off (notebooks.enabled)")
        return
    for name, environment in (("hub", hub_environment(here)), ("lab", lab_environment(here))):
        yield _environment(here, name, environment)
    yield from _account(here)
    yield from _secrets(here)
    yield from _sign_in(here)
    yield from examine_own_name(here)
    yield from _profiles(here.settings.notebooks)
    templates = Path(here.settings.notebooks.templates)
    if not templates.is_relative_to("/etc/diycloud") and not here.system.exists(templates):
        detail = f"there is no folder {templates} (notebooks.templates), so new users get the platform's files alone"
        yield Finding("warn", detail, "Make it, or name another.")
    for kernel in list_kernels(here.system, here.paths):
        if kernel.problem:
            advice = f"{kernel.problem[0].upper()}{kernel.problem[1:]}."
            yield Finding("warn", f"the shared environment {kernel.name} cannot be used", advice)


def _environment(here: Installation, name: str, environment: Environment) -> Finding:
    try:
        current = is_current(here.system, environment)
    except DiyCloudError as error:
        return Finding("fail", error.message, error.hint)
    folder = environment.folder
    if not here.system.exists(environment.python):
        return Finding("fail", f"the {name} environment is not there: {folder} has no Python", _SETUP)
    tried = here.system.query([str(environment.python), "-I", "-B", "-c", _HAS_ALL, *_NEEDED[name]])
    if not tried.ok:
        lacks = next(reversed(tried.stderr.strip().splitlines()), "its Python")
        again = f"`rm -r {folder}`, then `diycloud jupyter setup`, which makes it again."
        return Finding("fail", f"the {name} environment is damaged: without {lacks}", again)
    if not current:
        return Finding("warn", f"the {name} environment is not as this version and the settings want it", _SETUP)
    return Finding("ok", f"the {name} environment is whole")


def _profiles(settings: NotebookSettings) -> Iterator[Finding]:
    if waiting := sorted(settings.profiles.keys() - settings.offered.keys()):
        yield Finding(
            "warn",
            f"nobody is offered {' and '.join(waiting)} of notebooks.profiles: this version starts no containers",
            "Take `kind` and `image` out there for a size that can be used now, or leave it for later.",
        )


def _account(here: Installation) -> Iterator[Finding]:
    held = here.system.query(["id", "-Gn", here.hub_user])
    missing = {here.server_user, here.table.nginx.group} - set(held.stdout.split())
    if not held.ok:
        yield Finding("fail", f"there is no account {here.hub_user}", _SETUP)
    elif missing:
        groups = " and ".join(sorted(missing))
        yield Finding("fail", f"{here.hub_user} is not in {groups}, whose sockets the hub uses", _SETUP)


def _sign_in(here: Installation) -> Iterator[Finding]:
    """Look at the hub as an application of the portal's; where the server does not answer, doctor says so elsewhere."""
    if here.settings.notebooks.sign_in != "portal":
        return
    try:
        apps = ask_json(here.paths.server_socket, f"{PREFIX}/apps")["apps"]
    except DiyCloudError:
        return
    known = next((app for app in apps if app["name"] == CLIENT), None)
    if known is None or not set(callbacks(here)) <= set(known["redirect_uris"]):
        yield Finding(
            "fail", "the portal does not sign people in to the hub at the address that the settings say", _SETUP
        )
    elif not known["enabled"]:
        detail = f"nobody can sign in to the hub: the application {CLIENT} is switched off"
        yield Finding("fail", detail, f"`diycloud app modify {CLIENT} --enabled`")


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
            yield Finding("fail", f"{path}, by which hub and portal know each other, is not there", _SETUP)
            continue
        if owner is None or not stat.S_ISREG(info.st_mode) or info.st_uid != owner.uid or info.st_mode & 0o077:
            sound = False
            yield Finding("fail", f"{path} must be a file of {user}'s that nobody else can read", _SETUP)
    if sound:
        same = here.system.read(paths.hub_token) == here.system.read(paths.portal_token)
        yield (
            Finding("ok", "hub and portal know each other")
            if same
            else Finding("fail", "the server's token for the hub is not the hub's", _SETUP)
        )
