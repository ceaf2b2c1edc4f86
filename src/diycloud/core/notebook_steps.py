"""The steps that set notebooks up (docs/how-to/notebooks.md). Each says in a few words what it did, and is safe to run again."""

from __future__ import annotations

import secrets
from pathlib import Path

import msgspec

from diycloud.auth.oidc.first_party import Kept, Wanted
from diycloud.core import kernels
from diycloud.core.environments import REQUIREMENTS, Environment, ensure_environment, is_current
from diycloud.core.installation import Installation
from diycloud.core.names import in_url
from diycloud.core.own_name import examine_own_name
from diycloud.core.services import HUB, OURS
from diycloud.errors import DiyCloudError
from diycloud.system import ROOT, System

CLIENT = "notebooks"
"""The hub's name as an application that signs people in through the portal."""
CALLBACK = "jupyter/hub/oauth_callback"
_MAX_ADDRESSES = 20
_NOT_WANTED = "not wanted here"
_PRECOMPRESS = (
    'find "$@" -name "*.gz" -delete; '
    r'find "$@" -type f \( -name "*.js" -o -name "*.css" -o -name "*.svg" -o -name "*.json" -o -name "*.ttf" \)'
    " -size +1k -exec gzip -9 -k -f -n -- {} +"
)
"""Nginx serves a file's `.gz` that lies beside it. Packing them once takes seconds; at each request it would take cores."""


class HubClient(msgspec.Struct, frozen=True):
    """What is in Paths.hub_client."""

    client_id: str
    client_secret: str


def hub_environment(run: Installation) -> Environment:
    """Describe the hub's environment."""
    return Environment(run.paths.hub_environment, REQUIREMENTS / "hub.txt", program=True)


def lab_environment(run: Installation) -> Environment:
    """Describe the environment of users' servers and of the default kernel, as the settings want it."""
    wanted = run.settings.notebooks
    file = REQUIREMENTS / ("lab-data.txt" if wanted.data_science else "lab.txt")
    return Environment(run.paths.lab_environment, file, wanted.packages, program=True, open=True)


def environments(run: Installation) -> str:
    """Make the two environments, unless they are as this program and the settings want them."""
    if not run.settings.notebooks.enabled:
        return _NOT_WANTED
    hub, lab = hub_environment(run), lab_environment(run)
    done = []
    if ensure_environment(run.system, hub):
        done.append("hub")
    precompressed = run.paths.lab_environment / ".precompressed"
    new = not is_current(run.system, lab)
    if new:
        run.system.remove(precompressed)
        ensure_environment(run.system, lab)
        done.append("lab")
    if not run.system.exists(precompressed):
        share = run.paths.lab_environment / "share" / "jupyter"
        folders = [str(share / "lab" / "static"), str(share / "labextensions")]
        run.system.run(["/bin/sh", "-c", _PRECOMPRESS, "precompress", *folders], timeout=600)
        run.system.write(precompressed, "")
    try:
        done += kernels.refresh(run.system, run.paths)
    except DiyCloudError as error:  # what administrators added themselves holds nothing up
        run.notes.append(f"A shared environment could not be made again: {error}")
    return f"made {' and '.join(done)}" if done else "up to date"


def folders(run: Installation) -> None:
    """Make the folders of notebooks: part of the installation's step of that name."""
    paths, system = run.paths, run.system
    jupyter = paths.hub_environment.parent
    shared = paths.kernels
    for folder in (paths.program, jupyter, shared, shared / "envs", shared / "share"):
        _ensure_folder(system, folder)
    for folder in (shared / "share" / "jupyter", shared / "share" / "jupyter" / "kernels"):
        _ensure_folder(system, folder)
    _ensure_folder(system, paths.notebook_tmp.parent)
    system.make_dir(paths.notebook_tmp, mode=0o711)
    system.make_dir(paths.hub_state, mode=0o700, owner=run.hub_owner)
    templates = Path(run.settings.notebooks.templates)
    if templates.is_relative_to("/etc/diycloud"):  # elsewhere it is the administrator's own
        _ensure_folder(system, paths.config_dir / templates.relative_to("/etc/diycloud"))


def _ensure_folder(system: System, folder: Path) -> None:
    for missing in [path for path in reversed(folder.parents) if not system.exists(path)]:
        system.make_dir(missing)
    system.make_dir(folder, mode=0o755, owner=ROOT)


def sign_in(run: Installation) -> str:
    """Make the hub and the portal known to each other. What they know already and still works is kept."""
    if not run.settings.notebooks.enabled:
        return _NOT_WANTED
    done = [*_client(run), *_token(run)]
    if done:
        run.changed.add(HUB)
        found = examine_own_name(run) if run.settings.notebooks.host else ()
        run.notes += [f"{one.detail}. {one.advice}" for one in found if one.result != "ok"]
    return f"made {' and '.join(done)}" if done else "as it should be"


def _client(run: Installation) -> list[str]:
    """Have the portal know the hub as an application of the platform's own."""
    known = _read_client(run)
    secret = known.client_secret if known else None
    wanted = Wanted(CLIENT, "Notebooks", callbacks(run), secret)
    asked = msgspec.json.encode(wanted).decode()
    answer = run.child("diycloud.auth.oidc.first_party", user=run.server_owner, input=asked)
    kept = Kept(secret or "", changed=secret is None) if run.dry else msgspec.json.decode(answer, type=Kept)
    text = msgspec.json.encode(HubClient(CLIENT, kept.secret)).decode() + "\n"
    written = run.system.write(run.paths.hub_client, text, mode=0o600, owner=run.hub_owner)
    return ["the hub's sign-in"] if written or kept.changed else []


def callbacks(run: Installation) -> tuple[str, ...]:
    """Return where the portal sends people back to: at notebooks' own name, or at all names that people may type."""
    port, own = run.settings.server.https_port, run.settings.notebooks.host
    bases = [f"https://{in_url(name)}{'' if port == 443 else f':{port}'}/" for name in ([own] if own else run.names)]
    return tuple(base + CALLBACK for base in bases[:_MAX_ADDRESSES])


def _read_client(run: Installation) -> HubClient | None:
    try:
        return msgspec.json.decode(run.system.read(run.paths.hub_client) or "", type=HubClient)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _token(run: Installation) -> list[str]:
    """Make the token with which the server asks the hub: one text in two places, each its reader's alone."""
    paths = run.paths
    token = (run.system.read(paths.hub_token) or "").strip()
    if len(token) != 64 or not token.isalnum():
        token = secrets.token_hex(32)
    written = run.system.write(paths.hub_token, f"{token}\n", mode=0o600, owner=run.hub_owner)
    written |= run.system.write(paths.portal_token, f"{token}\n", mode=0o600, owner=run.server_owner)
    return ["the server's token"] if written else []


def start(run: Installation) -> str:
    """Start what does not run, and ours again: agent, server and hub each read the settings, and must not differ on them."""
    started = run.platform.up(restart=OURS)
    if "nginx" in run.changed and run.platform.nginx not in started:
        run.platform.reload_nginx()
        started.append("Nginx's sites")
    return f"started {', '.join(started)}"
