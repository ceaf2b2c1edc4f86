"""What PAM does for the platform: who gets in, and that every session (sshd, su, cron, login) lands in its user's slice.

The session hook is a small root shell script (templates/pam/), rendered for the way this host keeps slices. `seteuid`
makes it root under su, too. pam_exec gives it no variable of the caller's environment, only PAM's own. Networks, the
second factor and what an expired password means are asked by existing modules, of the files in host/pam_files.py.

All lines skip every UID outside the managed range, so that root and the host's own people sign in whatever becomes of
script, files and modules. Families have different tools for the shared stacks. Only Debian's is known here; elsewhere
Unsupported says so. Sources: pam_exec(8), pam_succeed_if(8), pam_unix(8), pam_access(8), pam-auth-update(8).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jinja2

from diycloud.errors import HostError, InvalidInput, Unsupported
from diycloud.host.cgroup import Tree, read_tree
from diycloud.host.pam_files import SERVICE, PamFiles
from diycloud.host.slices import RESERVED_TASKS, Limits
from diycloud.system import System
from diycloud.units import cpu_quota_us

TEMPLATES = Path(__file__).parent.parent / "templates" / "pam"
STACKS = ("common-session", "common-session-noninteractive")
SIGN_IN = Path("/var/lib/diycloud/sign-in")
INSIDE = ("cron", "crond", "atd", "systemd-user", "sudo", "sudo-i", "doas", "chsh", "chfn", "polkit-1")
"""Services whose user is inside already, or not there at all: where they come from was asked at the sign-in."""
CODES_MODULE = "pam_google_authenticator.so"
_UNCODED = """\
DIY Cloud: a password alone does not do for this account, and it has no codes yet.
Set up an app for codes on the portal's account page, or sign in with an SSH key.
"""


class Hook(NamedTuple):
    """What the hook has to know.

    script: where it goes; managed: the agent's file (agent/registry.py); parent: folder of the slices without systemd;
    uid_min, uid_max: whom it is for; fallback: limits for all of them while the file is lost; sign_in: the folder of what
    PAM's modules ask (host/pam_files.py).
    """

    script: Path
    managed: Path
    parent: str
    uid_min: int
    uid_max: int
    fallback: Limits
    sign_in: Path = SIGN_IN

    @property
    def message(self) -> Path:
        """What somebody is told who has no codes yet."""
        return self.script.with_name("uncoded.txt")


def render_hook(hook: Hook, tree: Tree, *, systemd: bool) -> str:
    """Return the script for this host. Raises InvalidInput for a path or name that a PAM line could not carry."""
    for word in (str(hook.script), str(hook.managed), str(hook.sign_in), hook.parent):
        if not re.fullmatch(r"[A-Za-z0-9_./-]+", word):
            raise InvalidInput(f"{word!r} has characters that a PAM line cannot carry.")
    values: dict[str, object] = {
        "managed": str(hook.managed),
        "reserved": RESERVED_TASKS,
        "uid_min": hook.uid_min,
        "uid_max": hook.uid_max,
        "fallback": f"{cpu_quota_us(hook.fallback.cpu)} {hook.fallback.memory} {hook.fallback.tasks}",
    }
    if systemd:
        values |= {"place": "place-systemd"}
    elif tree.v2:
        values |= {"place": "place-cgroup-v2", "mount": tree.v2, "root": f"{tree.v2}/{hook.parent}"}
    else:
        values |= {"place": "place-cgroup-v1"}
        values |= {controller: f"{mount}/{hook.parent}" for controller, mount in tree.v1.items()}
    return _render("pam-session", values)


def ensure_pam(system: System, family: str, hook: Hook) -> bool:
    """Install the hook and its PAM lines. True if anything changed.

    family: of distributions (distro/families.toml). The script is there before the lines that call it.
    Raises Unsupported for a family without a recipe or a host without cgroups, HostError if the stacks do not have the
    lines afterwards (they were edited by hand, and the family's tool leaves such files alone).
    """
    recipe = _recipe(family)
    tree = read_tree(system)
    if isinstance(tree, Unsupported):
        raise tree
    text = render_hook(hook, tree, systemd=system.exists("/run/systemd/system"))
    changed = False
    for folder in (hook.script.parent.parent, hook.script.parent):
        changed |= system.make_dir(folder)
    changed |= system.write(hook.script, text, mode=0o755)
    changed |= system.write(hook.message, _UNCODED)
    changed |= PamFiles(system, hook.sign_in).ensure_folder()
    changed = recipe.ensure(system, hook) or changed
    return system.write(SERVICE, _render("diycloud.service", _words(hook))) or changed


def remove_pam(system: System, family: str, hook: Hook) -> bool:
    """Take the PAM lines away, then the hook. True if there was anything."""
    changed = system.remove(SERVICE)
    changed |= _recipe(family).remove(system, hook)
    changed |= system.remove_tree(hook.sign_in)
    changed |= system.remove(hook.message)
    return system.remove(hook.script) or changed


def read_warnings(system: System) -> list[str]:
    """Return what makes the hook useless or unsafe on this host, for doctor.

    sshd opens PAM sessions only with `UsePAM yes`. A stack that reads users' own environment files (pam_env's
    user_readenv) ahead of the hook would let them set LD_PRELOAD for a program of root's.
    """
    found = []
    answer = system.query(["sshd", "-T", "-C", "user=root,host=localhost,addr=127.0.0.1"])
    if answer.ok and "usepam yes" not in answer.stdout.lower().splitlines():
        found.append("sshd runs with UsePAM off: SSH sessions are outside all limits. Set `UsePAM yes` in sshd_config.")
    if system.exists(SERVICE) and not _has_module(system, CODES_MODULE):
        found.append(
            f"PAM has no {CODES_MODULE}: users with a second factor cannot sign in with their password over SSH."
        )
    for name in system.list_dir("/etc/pam.d"):
        if _reads_user_environment_first(system.read(f"/etc/pam.d/{name}") or ""):
            found.append(
                f"/etc/pam.d/{name} reads users' environment files before common-session: remove user_readenv=1."
            )
    return found


def _has_module(system: System, name: str) -> bool:
    folders = [f"{lib}/security" for lib in ("/lib", "/usr/lib", "/lib64", "/usr/lib64")]
    folders += [f"/usr/lib/{arch}/security" for arch in system.list_dir("/usr/lib") if arch.endswith("-linux-gnu")]
    return any(system.exists(f"{folder}/{name}") for folder in folders)


def _reads_user_environment_first(stack: str) -> bool:
    for line in stack.splitlines():
        if re.match(r"\s*@include\s+common-session", line):
            return False
        if re.match(r"\s*[^#].*\bpam_env\.so\b.*\buser_readenv=1", line):
            return "@include common-session" in stack
    return False


class _Recipe(NamedTuple):
    ensure: Callable[[System, Hook], bool]
    remove: Callable[[System, Hook], bool]


_PROFILES = ("diycloud", "diycloud-sign-in")
_QUIETLY = {"DEBIAN_FRONTEND": "noninteractive"}


def _profile(name: str) -> str:
    return f"/usr/share/pam-configs/{name}"


def _ensure_debian(system: System, hook: Hook) -> bool:
    changed = False
    for name in _PROFILES:
        changed |= system.write(_profile(name), _render(f"{name}.profile", _words(hook)))
    if changed or _lacking(system, hook):
        # Older profiles are taken out first: the tool does not renew the lines of one that is in already.
        system.run(["pam-auth-update", "--package", "--remove", *_PROFILES], env=_QUIETLY)
        system.run(["pam-auth-update", "--package", "--enable", *_PROFILES], env=_QUIETLY)
        changed = True
        if lacking := _lacking(system, hook):
            raise HostError(
                f"pam-auth-update did not add our lines to {' and '.join(lacking)}.",
                "They were edited by hand. `pam-auth-update --force` renews them; add your own lines again after it.",
            )
    return changed


def _remove_debian(system: System, hook: Hook) -> bool:
    there = any(system.exists(_profile(name)) for name in _PROFILES)
    if not there and len(_lacking(system, hook)) == len(_marks(hook)):
        return False
    system.run(["pam-auth-update", "--package", "--remove", *_PROFILES], env=_QUIETLY)
    for name in _PROFILES:
        system.remove(_profile(name))
    return True


def _lacking(system: System, hook: Hook) -> list[str]:
    """Return the stacks that lack our lines: of two lines that follow each other, the second does what the first allows."""
    lacking = []
    for name, (test, call) in _marks(hook).items():
        lines = (system.read(f"/etc/pam.d/{name}") or "").splitlines()
        if not any(test in line and call in after for line, after in pairwise(lines)):
            lacking.append(name)
    return lacking


def _marks(hook: Hook) -> Mapping[str, tuple[str, str]]:
    ours = f"pam_succeed_if.so quiet uid ge {hook.uid_min} uid le {hook.uid_max}"
    return {
        **dict.fromkeys(STACKS, (ours, f"type=open_session {hook.script}")),
        "common-auth": (f"file={hook.sign_in}/coded", f"secret={hook.sign_in}/codes/"),
        "common-account": ("pam_succeed_if.so quiet ruser = root", f"accessfile={hook.sign_in}/access"),
    }


def _words(hook: Hook) -> Mapping[str, object]:
    return {
        "uid_min": hook.uid_min, "uid_max": hook.uid_max, "script": hook.script, "files": hook.sign_in,
        "message": hook.message, "services": ":".join(INSIDE),
    }  # fmt: skip


_RECIPES: Mapping[str, _Recipe] = {"debian": _Recipe(_ensure_debian, _remove_debian)}


def _recipe(family: str) -> _Recipe:
    if family not in _RECIPES:
        raise Unsupported(
            f"The PAM stacks of the {family} family are not known to this program.",
            f"Sessions are outside the limits there. Known: {', '.join(_RECIPES)}.",
        )
    return _RECIPES[family]


def _render(name: str, values: Mapping[str, object]) -> str:
    shell = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # a shell script, not a page; words are quoted by the filter
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    shell.filters["quote"] = shlex.quote
    return shell.get_template(name).render(values)
