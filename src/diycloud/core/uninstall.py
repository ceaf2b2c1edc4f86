"""Taking the platform off a host, so that nothing of it is left.

What stays: distribution packages, users' accounts, homes and groups unless asked, logs if asked. Every step is safe to repeat
and copes with an installation that never got to its end.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from diycloud.agent.group_registry import GroupRegistry
from diycloud.agent.registry import Registry
from diycloud.config import Paths
from diycloud.core.installation import Installation
from diycloud.core.lock import only_one
from diycloud.core.nginx import Site
from diycloud.core.options import InstallOptions
from diycloud.core.steps import Printer, Step, StepFailed, run_steps
from diycloud.distro.detect import Init
from diycloud.errors import DiyCloudError, HostError, PermissionDenied, Unsupported
from diycloud.host import keys
from diycloud.host.accounts import remove_account, stop_processes
from diycloud.host.groups import check_folder, remove_group
from diycloud.host.homes import STAGING, TRASH, check_home
from diycloud.host.notebooks import Places, is_looked_after
from diycloud.host.pam import remove_pam
from diycloud.host.slices import Slices, detect_slices
from diycloud.host.sudo import DROP_IN, STAGED
from diycloud.host.systemd_slices import SystemdSlices
from diycloud.system import System
from diycloud.system.dry_run import DryRun

COMMAND = Path("/usr/local/bin/diycloud")


class UninstallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """remove_homes: users' accounts and homes go too, with everything they run, and so do groups with their folders."""

    dry_run: bool = False
    keep_logs: bool = False
    remove_homes: bool = False
    prefix: str = "/"


class _Removal(Installation):
    """What the steps share. The settings and the list of accounts are read before their files go."""

    def __init__(self, system: System, options: UninstallOptions) -> None:
        super().__init__(system, InstallOptions(prefix=options.prefix, without_packages=True))
        self.uninstall = options
        self.agent = self.settings.agent
        self.our_site: Site = self.site
        self.our_hook = self.hook
        self.our_hub_user = self.hub_user
        reader = DryRun(system, lambda _: None)  # an installation that never got to its end has none, and gets none
        self.registry = Registry(reader, self.paths.managed, uid_min=self.agent.uid_min, uid_max=self.agent.uid_max)
        self.groups = GroupRegistry(
            reader, self.paths.groups, gid_min=self.agent.gid_min, gid_max=self.agent.gid_max
        )  # fmt: skip

    def reload_units(self) -> None:
        """Have systemd, if it runs, forget drop-ins that are gone."""
        if self.facts.init is Init.SYSTEMD:
            self.system.run(["systemctl", "daemon-reload"])


def uninstall(system: System, options: UninstallOptions, out: Printer) -> int:
    """Take everything away. Returns the exit status: 0 done, 1 a step failed.

    Raises PermissionDenied for others than root, Conflict while an installation or another uninstallation runs.
    """
    if os.geteuid() != 0:
        raise PermissionDenied("Only root can uninstall.", "Run it with sudo.")
    if options.dry_run:
        out("Dry run: this is what would be done. Nothing is changed.")
        return _run(_Removal(DryRun(system, lambda line: out(f"         {line}")), options), out)
    with only_one(system, Paths(options.prefix)):
        return _run(_Removal(system, options), out)


def _run(removal: _Removal, out: Printer) -> int:
    dry = removal.uninstall.dry_run
    try:
        run_steps(_STEPS, removal, out, plan=dry)
    except StepFailed as failure:
        cause = failure.__cause__
        assert isinstance(cause, DiyCloudError)
        out(f"\n{str(failure).capitalize()}: {cause}")
        out("Run the same command again: it continues from there.")
        return 1
    for note in removal.notes:
        out(f"Note: {note}")
    if not dry:
        out("\nDIY Cloud is gone from this host. Packages of the distribution stay: nginx and Python among them.")
    return 0


def _services(removal: _Removal) -> str:
    removal.platform.remove()
    return "stopped and removed"


def _notebooks(removal: _Removal) -> str:
    """End users' notebook servers: the program that they run goes. Files stay where they are."""
    slices = detect_slices(removal.system, removal.agent.cgroup)
    places = Places(removal.system, removal.paths)
    known = sorted(places.known())
    for key in known:
        entry = removal.registry.get(key.name)
        if entry is not None and not isinstance(slices, Unsupported):
            slices.part(key.name, entry.uid, key.part).end()
        record = places.read_record(key)
        if record is not None and is_looked_after(removal.system, record):
            removal.system.kill(record.shim)
        places.forget(key)
    return f"{len(known)} ended" if known else "none ran"


def _sign_in_hook(removal: _Removal) -> str:
    try:
        there = remove_pam(removal.system, removal.facts.distribution.family, removal.our_hook)
    except Unsupported:
        return "there was none"
    return "removed" if there else "there was none"


def _ssh_keys(removal: _Removal) -> str:
    changed = keys.remove_sshd(removal.system)
    if changed:
        removal.reload_sshd()
    if removal.system.query(["getent", "group", keys.CODES_GROUP]).ok:
        removal.system.run(["groupdel", keys.CODES_GROUP], ok=(0, 6))
    return "removed" if changed else "there were none"


def _sudo(removal: _Removal) -> str:
    """Take away the drop-in by which users have sudo, as nobody could do it by name any more."""
    gone = [removal.system.remove(path) for path in (DROP_IN, STAGED)]
    return f"removed {DROP_IN}" if any(gone) else "there was none"


def _users(removal: _Removal) -> str:
    """Take the limits of users away, and with remove_homes the users themselves."""
    if removal.registry.problem:
        raise HostError(
            f"Whose accounts are the platform's cannot be read: {removal.registry.problem}",
            f"Put {removal.paths.managed} back from a backup; or remove it, and remove the accounts by hand.",
        )
    slices = detect_slices(removal.system, removal.agent.cgroup)
    entries = list(removal.registry.entries.values())
    for entry in entries:
        if removal.uninstall.remove_homes:
            _remove_user(removal, entry.name, entry.uid, slices)
        elif not isinstance(slices, Unsupported):
            _release(removal, entry.name, entry.uid, slices)
    if removal.uninstall.remove_homes:
        removal.system.remove_tree(Path(removal.agent.home) / TRASH)
        removal.system.remove_tree(Path(removal.agent.home) / STAGING)
        return f"{len(entries)} removed, with their homes"
    removal.reload_units()
    if entries:
        removal.notes.append(f"{len(entries)} accounts and their homes stay; they have no limits any more.")
    return f"{len(entries)} released from their limits"


def _remove_user(removal: _Removal, name: str, uid: int, slices: Slices | Unsupported) -> None:
    if not isinstance(slices, Unsupported):
        slices.stop(name, uid)
        slices.remove(name, uid)
    stop_processes(removal.system, uid)
    remove_account(removal.system, name, uid)
    if check_home(removal.agent.home, name, uid):
        removal.system.remove_tree(Path(removal.agent.home) / name)


def _groups(removal: _Removal) -> str:
    """With remove_homes, take the groups away with their shared folders."""
    if removal.groups.problem:
        raise HostError(
            f"Which groups are the platform's cannot be read: {removal.groups.problem}",
            f"Put {removal.paths.groups} back from a backup; or remove it, and remove the groups by hand.",
        )
    gids = removal.groups.gids
    base = Path(removal.agent.shared)
    if not removal.uninstall.remove_homes:
        if gids:
            removal.notes.append(f"{len(gids)} groups and their folders in {base} stay.")
        return "left alone"
    for name, gid in gids.items():
        remove_group(removal.system, name, gid)
        if check_folder(str(base), name):
            removal.system.remove_tree(base / name)
    for folder in (TRASH, STAGING):
        removal.system.remove_tree(base / folder)
    if removal.system.exists(base) and not removal.system.list_dir(base):
        removal.system.remove(base)
    return f"{len(gids)} removed, with their folders"


def _release(removal: _Removal, name: str, uid: int, slices: Slices) -> None:
    """Take a slice away without ending what runs in it: a cgroup with processes cannot go, and systemd would end them."""
    if not slices.processes(name, uid):
        slices.remove(name, uid)
    elif isinstance(slices, SystemdSlices):
        for unit in (f"user-{uid}.slice", f"user@{uid}.service"):
            folder = f"/etc/systemd/system/{unit}.d"
            removal.system.remove(f"{folder}/50-diycloud.conf")
            if removal.system.exists(folder) and not removal.system.list_dir(folder):
                removal.system.remove(folder)  # an administrator's own drop-ins stay
    else:
        removal.notes.append(f"{name} has programs running: their limits hold until they end.")


def _nginx(removal: _Removal) -> str:
    there = removal.nginx.remove(removal.our_site)
    if there:
        removal.platform.reload_nginx()
    done = "removed" if there else "there was none"
    return done if removal.facts.init is not Init.NONE else done + _others_sites(removal)


def _others_sites(removal: _Removal) -> str:
    """Without init Nginx ended with our services: have it serve others' sites again, or say that it does not."""
    start = f"`nginx -c {removal.table.nginx.config}` starts it."
    try:
        if removal.platform.give_back_nginx():
            return "; the Nginx that ran before runs again"
    except HostError as error:
        removal.notes.append(f"The Nginx that ran before could not be started again: {error.message} {start}")
        return ""
    if others := removal.nginx.other_sites():
        removal.notes.append(f"Nginx was run by the platform and has ended, and {others[0]} is not served now: {start}")
    return ""


def _accounts(removal: _Removal) -> str:
    """The hub's first: while it is in the server's group, that group would stay."""
    gone = []
    for name in (removal.our_hub_user, removal.agent.server_user):
        found = removal.account(name)
        if found is None:
            continue
        if found.uid == 0 or found.uid >= removal.agent.uid_min:
            removal.notes.append(f"The account {name} is not a service's and stays.")
            continue
        removal.system.run(["userdel", name])
        gone.append(name)
    return f"removed {', '.join(gone)}" if gone else "there were none"


def _folders(removal: _Removal) -> str:
    paths = removal.paths
    folders = [paths.config_dir, paths.state.parent, paths.run, removal.guard_cache]
    if removal.uninstall.keep_logs:
        removal.notes.append(f"The logs stay in {paths.logs}.")
    else:
        folders.append(paths.logs)
    gone = [str(folder) for folder in folders if removal.system.remove_tree(folder)]
    return f"removed {', '.join(gone)}" if gone else "there were none"


def _program(removal: _Removal) -> str:
    """The last step: this very program. What it still needs is in memory."""
    program = removal.paths.program
    if removal.system.exists(COMMAND) and COMMAND.resolve().is_relative_to(program):
        removal.system.remove(COMMAND)
    return f"removed {program}" if removal.system.remove_tree(program) else "there was none"


_STEPS: tuple[Step[_Removal], ...] = (
    Step("Services", _services),
    Step("Notebooks", _notebooks),
    Step("Nginx site", _nginx),  # soon after its end, for the sites of others
    Step("Sign-in hook (PAM)", _sign_in_hook),
    Step("SSH keys", _ssh_keys),
    Step("Sudo", _sudo),
    Step("Users", _users),
    Step("Groups", _groups),  # after the users: one of these may be somebody's first group
    Step("Service accounts", _accounts),
    Step("Folders", _folders),
    Step("Program", _program),
)
