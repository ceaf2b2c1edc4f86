"""`diycloud doctor`: everything that must hold, each with what to do if it does not.

Nothing is changed. Whether files are as the installation writes them is found by letting the installation's own steps
write to a DryRun and looking whether that would change anything.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

import msgspec

from diycloud import config
from diycloud.agent.client import call_blocking
from diycloud.agent.group_registry import GroupRegistry
from diycloud.agent.protocol import Ping, Pong
from diycloud.agent.registry import Registry
from diycloud.config import Paths
from diycloud.core import certificates
from diycloud.core.doctor_notebooks import examine_notebooks
from diycloud.core.install_steps import probe_arguments, read_database
from diycloud.core.installation import Installation
from diycloud.core.options import InstallOptions
from diycloud.core.probe import ask_json
from diycloud.core.routes import PREFIX
from diycloud.distro.detect import Init
from diycloud.distro.os_release import Support
from diycloud.errors import DiyCloudError, PermissionDenied, Unsupported
from diycloud.host import keys, pam
from diycloud.system import Local, System
from diycloud.system.dry_run import DryRun

Severity = Literal["ok", "warn", "fail"]
_AGAIN = "Run `diycloud install`: it repairs what is missing and keeps what is there."
_RESTORE = "Put the file back from a backup, then restart the agent."
_LEAST_FREE = 0.05


class Check(msgspec.Struct, frozen=True):
    """One finding. advice: what to do; empty when all is well."""

    name: str
    result: Severity
    detail: str
    advice: str = ""


def examine(paths: Paths, system: System | None = None) -> list[Check]:
    """Examine the host and the platform on it. Raises PermissionDenied for others than root."""
    if os.geteuid() != 0:
        raise PermissionDenied("This needs root.", "Run it with sudo.")
    here = Installation(system or Local(), InstallOptions(prefix=paths.prefix))
    found: list[Check] = []
    if not paths.state.exists():
        found.append(Check("platform", "fail", "DIY Cloud is not set up here.", "Run `sudo ./install.sh`."))
        return found + [check for name in _OF_THE_HOST for check in dict(_CHECKS)[name](here)]
    for name, look in _CHECKS:
        try:
            found.extend(look(here))
        except DiyCloudError as error:
            found.append(Check(name, "fail", error.message, error.hint))
    return found


def _settings(here: Installation) -> Iterator[Check]:
    config.load(here.paths.config)  # raises InvalidInput with file, line and key
    yield Check("settings", "ok", f"{here.paths.config} is right")


def _distribution(here: Installation) -> Iterator[Check]:
    facts = here.facts
    detail = f"{facts.distribution.pretty_name}, {facts.arch}, {facts.support}"
    good = facts.support in (Support.SUPPORTED, Support.NEEDS_PYTHON)
    yield Check("distribution", "ok" if good else "warn", detail)
    what = "no init: the platform's own supervisor starts services" if facts.init is Init.NONE else facts.init.value
    yield Check("init", "ok", f"{what}; virtualization: {facts.virtualization}")
    graphics = ", ".join(gpu.model or f"{gpu.vendor} {gpu.address}" for gpu in facts.gpus)
    yield Check("graphics processors", "ok", graphics or "none")


def _cgroups(here: Installation) -> Iterator[Check]:
    cgroups = here.facts.cgroups
    if cgroups.usable:
        yield Check("cgroups", "ok", f"{cgroups.version}, with all controllers that limits need")
        return
    lacking = ", ".join((*cgroups.missing, *(f"{name} (read-only)" for name in cgroups.read_only)))
    yield Check(
        "cgroups",
        "fail",
        f"{cgroups.version}, without {lacking}: limits cannot be kept",
        "Accounts and portal work. For limits the kernel needs these controllers, mounted and writable.",
    )


def _files(here: Installation) -> Iterator[Check]:
    owner = here.server_owner
    sound = True
    file = () if here.settings.server.database else ((here.paths.database, 0o600, owner.uid),)
    for path, mode, uid in (
        *file,
        (here.paths.state, 0o700, owner.uid),
        (here.paths.agent_state, 0o700, 0),
        (certificates.Files(here.paths.certificates).server_key, 0o600, 0),
        (certificates.Files(here.paths.certificates).authority_key, 0o600, 0),
    ):
        try:
            info = os.lstat(path)
        except FileNotFoundError:
            sound = False
            yield Check("files", "fail", f"{path} is not there", _AGAIN)
            continue
        if stat.S_ISLNK(info.st_mode) or info.st_uid != uid or stat.S_IMODE(info.st_mode) & ~mode:
            sound = False
            detail = f"{path} has mode {stat.S_IMODE(info.st_mode):04o} and uid {info.st_uid}"
            yield Check("files", "fail", detail, f"It must be mode {mode:04o} and uid {uid}, and no link.")
    if sound:
        yield Check("files", "ok", "state and keys are their owners' alone")


def _database(here: Installation) -> Iterator[Check]:
    """Ask the database, as the server's account, which schema it has."""
    found = read_database(here)
    if found.revision is None:
        yield Check("database", "fail", f"{found.kind} has no tables of the platform", _AGAIN)
    else:
        yield Check("database", "ok", f"{found.kind} answers, with schema {found.revision}")


def _accounts(here: Installation) -> Iterator[Check]:
    agent = here.settings.agent
    quiet = DryRun(here.system, lambda line: None)
    registry = Registry(quiet, here.paths.managed, uid_min=agent.uid_min, uid_max=agent.uid_max)
    if registry.problem:
        yield Check("accounts", "fail", registry.problem, _RESTORE)
    else:
        yield Check("accounts", "ok", f"{len(registry.entries)} managed by the agent")


def _groups(here: Installation) -> Iterator[Check]:
    """Compare the agent's groups with the server's."""
    agent = here.settings.agent
    quiet = DryRun(here.system, lambda line: None)
    registry = GroupRegistry(quiet, here.paths.groups, gid_min=agent.gid_min, gid_max=agent.gid_max)
    if registry.problem:
        yield Check("groups", "fail", registry.problem, _RESTORE)
        return
    rows = {str(row["name"]): row for row in _group_rows(here)}
    if without := sorted(registry.gids.keys() - rows.keys()):
        advice = (
            "Put their rows back: INSERT INTO groups (name, domain) …; then `diycloud group remove NAME` if unwanted."
        )
        yield Check("groups", "warn", f"on the host without a group here: {_few(without)}", advice)
    if missing := sorted(rows.keys() - registry.gids.keys()):
        why = next((rows[name]["host_problem"] for name in missing if rows[name]["host_problem"]), "")
        detail = f"not on the host: {_few(missing)}. {why}".rstrip()
        yield Check(
            "groups", "warn", detail, "The agent makes them within a minute; `diycloud group show NAME` says why not."
        )
    if not without and not missing:
        yield Check("groups", "ok", f"{len(rows)}, here and on the host")


def _group_rows(here: Installation) -> Iterator[dict[str, Any]]:
    after: str | None = ""
    while after is not None:
        page = ask_json(here.paths.server_socket, f"{PREFIX}/groups?limit=1000&after={quote(after)}")
        yield from page["groups"]
        after = page["next"]


def _few(names: Sequence[str]) -> str:
    """Return names for people: ten, and how many more."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _services(here: Installation) -> Iterator[Check]:
    for service in here.platform.states():
        if not service.active:
            last = here.platform.last_words(service.name)
            yield Check("services", "fail", f"{service.name} is down. {last}".rstrip(), "Start it: `diycloud up`.")
        elif not service.enabled:
            yield Check("services", "warn", f"{service.name} runs, but does not start by itself", _AGAIN)
        else:
            yield Check("services", "ok", f"{service.name} runs")


def _answers(here: Installation) -> Iterator[Check]:
    fault = here.probe(probe_arguments(here))
    if fault is None or fault.part == "notebooks":
        yield Check("portal", "ok", f"it answers at {here.address}")
    if fault is not None:
        yield Check(fault.part, "fail", fault.message, fault.hint)


def _agent(here: Installation) -> Iterator[Check]:
    pong = call_blocking(here.paths.agent_socket, Ping(), Pong, deadline=5)
    advice = "Put the file back from a backup, or remove it and run `diycloud install`." if pong.problem else ""
    yield Check("agent", "fail" if pong.problem else "ok", pong.problem or "it answers", advice)


def _world(here: Installation) -> Iterator[Check]:
    """Ask the server whether the host is as it is wished."""
    found = ask_json(here.paths.server_socket, f"{PREFIX}/host")
    if found.get("unsettled"):
        said = f"{found['unsettled']} are not yet on the host as wished"
        yield Check("users", "warn", said, "See `diycloud user list`.")
    if found.get("stopped"):
        yield Check("users", "fail", str(found["stopped"]))
    elif found.get("orphans"):
        yield Check(
            "users",
            "warn",
            f"accounts without a user, locked: {_few(found['orphans'])}",
            "Put their rows back, or remove them: `userdel -r NAME`.",
        )
    if found.get("locked_out"):
        yield Check(
            "users",
            "warn",
            f"locked out, as their allowed_client_ip cannot be read: {_few(found['locked_out'])}",
            'Set it again: `diycloud user modify NAME --allowed-client-ip NETWORKS`, "" for from anywhere.',
        )


def _certificate(here: Installation) -> Iterator[Check]:
    until = certificates.read_expiry(here.system, here.paths.certificates)
    if until is None:
        yield Check("certificate", "fail", "there is none, or it does not fit its key", _AGAIN)
        return
    days = (until - datetime.now(UTC)).days
    result: Severity = "ok" if days > certificates.RENEW_DAYS else "warn" if days > 0 else "fail"
    yield Check("certificate", result, f"valid for {days} more days", "" if result == "ok" else _AGAIN)


def _outside(here: Installation) -> Iterator[Check]:
    """Ask the directory and the providers of the settings, and look whether the server can read their secrets."""
    settings = here.settings.sign_in
    if settings.ldap is not None:
        from diycloud.auth.outside.ldap import Directory

        yield from _secret(here, settings.ldap.bind_password_file)
        yield _asked("directory", Directory(settings.ldap))
    for provider in settings.providers:
        from diycloud.auth.outside.openid import Provider

        yield from _secret(here, provider.client_secret_file)
        yield _asked(f"provider {provider.name}", Provider(provider))


class _Outside(Protocol):
    async def check(self) -> str: ...

    async def close(self) -> None: ...


def _asked(name: str, outside: _Outside) -> Check:
    async def ask() -> str:
        try:
            return await outside.check()
        finally:
            await outside.close()

    try:
        return Check(name, "ok", asyncio.run(ask()))
    except DiyCloudError as error:
        return Check(name, "fail", error.message, error.hint)


def _secret(here: Installation, path: str) -> Iterator[Check]:
    """Tell if the server's account cannot read a file, or everybody can."""
    if not path:
        return
    owner = here.server_owner
    try:
        info = Path(path).stat()
    except OSError as error:
        yield Check("secret", "fail", f"{path}: {error.strerror}", "See sign_in in the settings.")
        return
    readable = (info.st_uid == owner.uid and info.st_mode & 0o400) or (
        info.st_gid == owner.gid and info.st_mode & 0o040
    )
    if info.st_mode & 0o004:
        yield Check("secret", "warn", f"everybody can read {path}", f"chmod 640 {path}")
    elif not readable:
        advice = f"chown root:{here.server_user} {path} && chmod 640 {path}"
        yield Check("secret", "fail", f"{here.server_user} cannot read {path}", advice)


def _as_installed(here: Installation) -> Iterator[Check]:
    """Tell what the installation would write again."""
    trial = Installation(DryRun(here.system, lambda line: None), here.options)
    parts: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("Nginx site", lambda: trial.nginx.ensure(trial.site).changed),
        ("service descriptions", lambda: bool(trial.platform.ensure())),
        ("sign-in hook", lambda: pam.ensure_pam(trial.system, trial.facts.distribution.family, trial.hook)),
    )
    for name, differs in parts:
        try:
            changed = differs()
        except DiyCloudError as error:
            yield Check("installation", "fail", f"{name}: {error.message}", error.hint)
            continue
        if changed:
            yield Check("installation", "warn", f"{name}: not as the installation writes it", _AGAIN)
        else:
            yield Check("installation", "ok", f"{name}: as the installation writes it")
    for warning in pam.read_warnings(here.system):
        yield Check("sign-in", "warn", warning)


def _ssh_keys(here: Installation) -> Iterator[Check]:
    trial = DryRun(here.system, lambda line: None)
    try:
        changed = keys.ensure_sshd(trial, here.paths.keys, keys.SSHD)
    except Unsupported as error:
        yield Check("SSH keys", "warn" if error.hint else "ok", error.message, error.hint)
    except DiyCloudError as error:
        yield Check("SSH keys", "fail", error.message, error.hint)
    else:
        yield (
            Check("SSH keys", "warn", "sshd does not read them", _AGAIN)
            if changed
            else Check("SSH keys", "ok", "sshd reads them")
        )


def _nginx(here: Installation) -> Iterator[Check]:
    layout = here.table.nginx
    answer = here.system.query([layout.binary, "-t", "-q", "-c", layout.config])
    if answer.ok:
        yield Check("nginx", "ok", "its settings are right")
    else:
        words = answer.stderr.strip() or "it could not be asked"
        yield Check("nginx", "fail", words, f"Mend what it names, then test with `{layout.binary} -t`.")


def _homes(here: Installation) -> Iterator[Check]:
    home = here.facts.home
    said = {"user": "with user quotas", "off": "without quotas, which it could have", "none": "cannot have user quotas"}
    later = "disk quotas and access to GPUs are stored and shown, not enforced by this version"
    yield Check("homes", "warn", f"{home.file_system}, {said[home.quota]}; {later}")
    for place in (here.settings.agent.home, str(here.paths.state), str(here.paths.logs)):
        if not Path(place).exists():
            continue
        space = os.statvfs(place)
        share = space.f_bavail / space.f_blocks if space.f_blocks else 1.0
        if share < _LEAST_FREE:
            yield Check("disk", "warn", f"{place}: {share:.0%} free", "Remove what is not needed, or add space.")


def _barriers(here: Installation) -> Iterator[Check]:
    facts, port = here.facts, here.settings.server.https_port
    opening = {
        "ufw": f"ufw allow {port}/tcp",
        "firewalld": f"firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload",
        "nftables": f"add `tcp dport {port} accept` to the input chain in /etc/nftables.conf",
    }
    if facts.firewall == "none":
        yield Check("firewall", "ok", "none is set to run")
    else:
        advice = f"If the portal cannot be reached from elsewhere: {opening[facts.firewall]}"
        yield Check("firewall", "ok", f"{facts.firewall} is set to run", advice)
    if facts.security_module == "selinux enforcing":
        advice = "If Nginx answers 503 while the server runs, see `ausearch -m avc -c nginx`."
        yield Check("security module", "warn", facts.security_module, advice)
    else:
        yield Check("security module", "ok", facts.security_module)


_OF_THE_HOST = ("distribution", "cgroups", "homes", "firewall")
"""What can be told before there is a platform."""

_CHECKS: tuple[tuple[str, Callable[[Installation], Iterator[Check]]], ...] = (
    ("settings", _settings),
    ("distribution", _distribution),
    ("cgroups", _cgroups),
    ("database", _database),
    ("services", _services),
    ("portal", _answers),
    ("agent", _agent),
    ("users", _world),
    ("certificate", _certificate),
    ("sign-in", _outside),
    ("nginx", _nginx),
    ("files", _files),
    ("accounts", _accounts),
    ("groups", _groups),
    ("installation", _as_installed),
    ("SSH keys", _ssh_keys),
    ("notebooks", lambda here: (Check("notebooks", *found) for found in examine_notebooks(here))),
    ("homes", _homes),
    ("firewall", _barriers),
)
