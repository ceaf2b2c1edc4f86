"""The steps of an installation. Each returns in a few words what it found or did, and is safe to run again."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

import msgspec

from diycloud import config
from diycloud.core import certificates as tls
from diycloud.core import notebook_steps as notebooks
from diycloud.core import settings_file
from diycloud.core.installation import FirstAdministrator, Installation
from diycloud.core.services import OURS
from diycloud.db.migrate import Found
from diycloud.distro.detect import Init
from diycloud.distro.os_release import Support
from diycloud.errors import BY_CODE, Conflict, DiyCloudError, HostError, Unsupported
from diycloud.host import keys
from diycloud.host.pam import ensure_pam
from diycloud.system import ROOT

PACKAGES = ("nginx", "shadow", "pam", "pam-codes")
NEEDED_PROGRAMS = ("useradd", "setpriv")
_ANSWER_S = 300
"""The hub imports for seconds, on a slow machine for minutes."""


def look(run: Installation) -> str:
    """Refuse what cannot work before anything is changed."""
    facts = run.facts
    pretty = facts.distribution.pretty_name
    if facts.support is Support.TOO_OLD:
        raise Unsupported(f"{pretty} is too old.", "docs/reference/distributions.md lists what is supported.")
    if facts.init in (Init.OPENRC, Init.SYSV):
        raise Unsupported(f"Services under {facts.init} cannot be managed yet.", "systemd, or no init at all, works.")
    if facts.support is Support.EXPERIMENTAL:
        run.notes.append(f"Support of {pretty} is experimental.")
    if facts.support is Support.DERIVED:
        run.notes.append(
            f"{pretty} is not known by itself: it is treated as one of the {facts.distribution.family} family."
        )
    if not facts.cgroups.usable:
        lacking = ", ".join(facts.cgroups.missing) or ", ".join(f"{name} read-only" for name in facts.cgroups.read_only)
        run.notes.append(f"cgroup controllers are missing ({lacking}): accounts and portal work, limits do not.")
    _refuse_taken_ports(run)
    return f"{pretty}, {facts.arch}, " + ("no init" if facts.init is Init.NONE else facts.init.value)


def _refuse_taken_ports(run: Installation) -> None:
    pid = (run.system.read("/run/nginx.pid") or "").strip()
    if pid.isdigit() and (run.system.read(f"/proc/{pid}/comm") or "").strip() == "nginx":
        return
    listening = parse_listening(*(run.system.read(f"/proc/net/{name}") or "" for name in ("tcp", "tcp6")))
    server = run.settings.server
    for port, option in ((server.https_port, "--https-port"), (server.http_port, "--http-port")):
        if port in listening:
            raise Conflict(
                f"Port {port} is taken by another program.", f"Stop it, or choose another port with {option}."
            )


def parse_listening(*tables: str) -> set[int]:
    """Return the TCP ports that are listened on, from /proc/net/tcp and tcp6 (proc(5); state 0A is LISTEN)."""
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if len(row) > 3 and row[3] == "0A"}


def packages(run: Installation) -> str:
    """Install what is needed of the distribution."""
    installed = run.packages.install(PACKAGES)
    if not run.dry:
        missing = [name for name in NEEDED_PROGRAMS if not run.system.exists(run.table.binaries[name])]
        if missing:
            raise HostError(f"There is no {' and no '.join(missing)} on this host.", "Install the package that has it.")
    return f"installed {', '.join(installed)}" if installed else "all there"


def accounts(run: Installation) -> str:
    """Make the accounts of the server and of the hub: system accounts, no shell, no home."""
    _codes_group(run)
    found = [_account(run, run.server_user, "DIY Cloud server", "agent.server_user")]
    if run.settings.notebooks.enabled:
        found.append(_account(run, run.hub_user, "DIY Cloud notebooks", "notebooks.hub_user"))
        _hub_groups(run)
    return ", ".join(found)


def _hub_groups(run: Installation) -> None:
    """Let the hub reach the agent's socket (the server's group), and those of the server and of notebooks (Nginx's)."""
    held = run.system.query(["id", "-Gn", run.hub_user]).stdout.split()
    if missing := [group for group in (run.server_user, run.table.nginx.group) if group not in held]:
        run.system.run(["usermod", "--append", "--groups", ",".join(missing), run.hub_user])


def _account(run: Installation, name: str, comment: str, setting: str) -> str:
    shell = run.table.nologin
    line = run.system.query(["getent", "passwd", name]).stdout.strip().split(":")
    if len(line) >= 7:
        if int(line[2]) == 0 or int(line[2]) >= run.settings.agent.uid_min or line[6] not in (shell, "/bin/false"):
            raise Conflict(
                f"There is an account {name} already, and it is not a service's (uid {line[2]}, shell {line[6]}).",
                f"Rename it, or set {setting} in the settings to another name.",
            )
        return f"{name} is there"
    description = ["--comment", comment, "--home-dir", "/nonexistent", "--no-create-home", "--shell", shell]
    group = run.system.query(["getent", "group", name]).stdout
    membership = ["--gid", name] if group else ["--user-group"]
    run.system.run([run.table.binaries["useradd"], "--system", *membership, *description, name])
    return f"made {name}"


def _codes_group(run: Installation) -> None:
    """Make the system group of the users whom PAM asks for a code, empty."""
    if not run.system.query(["getent", "group", keys.CODES_GROUP]).ok:
        run.system.run(["groupadd", "--system", keys.CODES_GROUP])


def folders(run: Installation) -> str:
    """Make the platform's folders, and write chosen settings into its file."""
    paths, owner = run.paths, run.server_owner
    above = {parent for folder in (paths.config_dir, paths.state, paths.logs, paths.run) for parent in folder.parents}
    for folder in sorted(above):
        if not run.system.exists(folder):
            run.system.make_dir(folder)
    made = 0
    for folder, mode, who in (
        (paths.config_dir, 0o755, ROOT),
        (paths.certificates, 0o755, ROOT),
        (paths.state.parent, 0o755, ROOT),
        (paths.state, 0o700, owner),
        (paths.agent_state, 0o700, ROOT),
        (paths.logs, 0o750, ROOT),
        (paths.run, 0o755, ROOT),
    ):
        made += run.system.make_dir(folder, mode=mode, owner=who)
    text = run.system.read(paths.config) or settings_file.FIRST
    chosen = {
        "host_name": run.options.domain,
        "https_port": run.options.https_port,
        "http_port": run.options.http_port,
    }
    for key, value in chosen.items():
        if value:
            text = settings_file.set_key(text, "server", key, value)
    if run.notebooks_chosen is not None and config.parse(text, paths.config).notebooks.enabled != run.notebooks_chosen:
        text = settings_file.set_key(text, "notebooks", "enabled", run.notebooks_chosen)
    written = run.system.write(paths.config, text)
    if run.settings.notebooks.enabled:
        notebooks.folders(run)
    done = [f"{made} made or mended"] if made else []
    done += ["settings written"] if written else []
    return ", ".join(done) or "as they should be"


def database(run: Installation) -> str:
    """Bring the database to this program's schema, under the server's user: root never opens it."""
    new = _is_new(run)
    if new and not run.system.exists(run.pending_password):
        run.system.write(run.pending_password, f"{make_password()}\n", mode=0o600)
    run.child("diycloud.db.migrate", user=run.server_owner)
    return "made" if new else "up to date"


def _is_new(run: Installation) -> bool:
    if run.settings.server.database and not run.dry:
        return read_database(run).revision is None
    return not run.settings.server.database and not run.system.exists(run.paths.database)


def read_database(run: Installation) -> Found:
    """Ask the database of the settings, under the server's user, what it is. Raises Unavailable if it does not answer."""
    found = msgspec.json.decode(run.child("diycloud.db.migrate", "--check", user=run.server_owner), type=Found)
    if found.error is not None:
        raise BY_CODE.get(found.error["code"], DiyCloudError)(found.error["message"], found.error["hint"])
    return found


def certificates(run: Installation) -> str:
    """Make the own authority and the server's certificate."""
    made = tls.ensure_certificates(run.system, run.paths.certificates, run.certified_names, datetime.now(UTC))
    if made:
        run.changed.add("nginx")
        return f"made {' and '.join(made)}"
    return f"valid until {tls.read_expiry(run.system, run.paths.certificates):%Y-%m-%d}"


def sign_in_hook(run: Installation) -> str:
    """Have every session of a user begin in their slice."""
    try:
        changed = ensure_pam(run.system, run.facts.distribution.family, run.hook)
    except Unsupported as error:
        run.notes.append(str(error))
        return "not on this host"
    except HostError:
        if not run.dry:  # a dry run did not change the stacks, so they do not have the lines afterwards
            raise
        return "would be written"
    return "written" if changed else "is there"


def ssh_keys(run: Installation) -> str:
    """Have sshd read the keys that users add here, beside their own files."""
    try:
        changed = keys.ensure_sshd(run.system, run.paths.keys, keys.SSHD)
    except Unsupported as error:
        run.notes.append(str(error))
        return "not on this host"
    if changed:
        run.reload_sshd()
    return "written" if changed else "is there"


def nginx_site(run: Installation) -> str:
    """Put our site into Nginx, tested before anything takes it up."""
    report = run.nginx.ensure(run.site)
    run.notes.extend(report.notes)
    if report.changed:
        run.changed.add("nginx")
    return "written" if report.changed else "as it should be"


def services(run: Installation) -> str:
    """Describe agent and server to whatever starts services here, hardened."""
    changed = run.platform.ensure()
    run.changed.update(changed)
    return f"written: {', '.join(changed)}" if changed else "as they should be"


def start(run: Installation) -> str:
    """Start what does not run. Our own services are started again, so that this program is the one that runs."""
    started = run.platform.up(restart=OURS)
    if "nginx" in run.changed and run.platform.nginx not in started:
        run.platform.reload_nginx()
        started.append("Nginx's sites")
    return f"started {', '.join(started)}"


def first_administrator(run: Installation) -> str:
    """Make the portal's first administrator, unless there is one.

    The one-time password of a new database is on disk (0600, root) from before it is set until it was shown: a run that
    is killed in between shows it the next time.
    """
    kept = (run.system.read(run.pending_password) or "").strip()
    given = run.options.admin_password
    password = given or kept or make_password()
    asked = {"username": run.options.admin_name, "password": password, "one_time": not given}
    answer = run.child("diycloud.users.first_admin", user=run.server_owner, input=json.dumps(asked))
    if run.dry:
        return f"would make {run.options.admin_name}, unless there is one"
    found = msgspec.json.decode(answer, type=FirstAdministrator)
    shown = (None if given else password) if found.created else (kept or None)
    run.administrator = msgspec.structs.replace(found, password=shown)
    return f"made {found.username}" if found.created else f"{found.username} is there"


def make_password() -> str:
    """Return a one-time password of 99 bits that can be read from one screen and typed at another."""
    letters = "abcdefghijkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))


def check(run: Installation) -> str:
    """Ask the server by its socket and through Nginx until both answer."""
    if fault := run.probe(probe_arguments(run), wait=_ANSWER_S):
        raise HostError(fault.message, fault.hint)
    notebooks_at = run.settings.notebooks_address if run.settings.notebooks.enabled else ""
    return f"it answers at {run.address}" + (f", notebooks at {notebooks_at}/jupyter/" if notebooks_at else "")


def probe_arguments(run: Installation) -> list[str]:
    """Return what diycloud.core.probe is to look at, as its arguments."""
    wanted = run.settings.notebooks
    hub = {"--hub": "/jupyter/hub/health"} if wanted.enabled else {}
    if wanted.enabled and wanted.host:
        hub["--hub-name"] = wanted.host
    named = {
        **hub,
        "--socket": str(run.paths.server_socket),
        "--name": run.names[0],
        "--port": str(run.settings.server.https_port),
        "--authority": str(tls.Files(run.paths.certificates).authority),
    }
    return [word for pair in named.items() for word in pair]
