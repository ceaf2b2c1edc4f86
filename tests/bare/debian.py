"""Debian trees for the tests: made once with debootstrap, then kept.

A tree takes over three things from the machine that makes it, so that tests run wherever this machine can install
software: its Debian mirrors, the certificate authorities it trusts beyond Debian's own, and its pip settings. Nothing
about a registry is written down here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TOP = Path(os.environ.get("DIYCLOUD_TESTBED", "/var/tmp/diycloud-testbed"))
"""Trees, images and instances: gigabytes, kept between runs, outside the source tree."""

SUITES: dict[str, int | None] = {"bookworm": 12, "trixie": 13, "sid": None}
"""Debian's versions. sid has no number, no updates and no security archive, and the next version's Python."""

HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
BUNDLE = "/etc/ssl/testbed-ca.crt"
"""In a tree: what the host trusts, as one file, there before any package is installed."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)
_CHROOT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}


class CannotBuild(RuntimeError):
    """This machine cannot make or run the test bed. The message says why; a test skips with it."""


class BuildFailed(RuntimeError):
    """This machine has what it takes, and yet making a tree failed: an error, never a reason to skip."""


class Mirrors(NamedTuple):
    """The addresses of the Debian archive and, where the host uses one, the security archive."""

    main: str
    security: str | None


def require(programs: Mapping[str, str]) -> None:
    """Raise CannotBuild unless this is root and every program (name → Debian package) is there."""
    if os.geteuid() != 0:
        raise CannotBuild("needs root")
    missing = [f"{name} (package {package})" for name, package in programs.items() if shutil.which(name) is None]
    if missing:
        raise CannotBuild("needs " + ", ".join(missing))


def read_mirrors(etc_apt: Path = Path("/etc/apt")) -> Mirrors:
    """Return the mirrors of the host's own apt configuration (sources.list(5), both formats)."""
    folder = etc_apt / "sources.list.d"
    files = [etc_apt / "sources.list", *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]
    text = "\n".join(file.read_text() for file in files if file.exists())
    found = re.findall(r"^(?:URIs:|deb(?:\s+\[[^\]]*\])?)\s+(\S+)", text, re.MULTILINE)
    addresses = [address.rstrip("/") for address in found]
    archives = [address for address in addresses if address.endswith("/debian")]
    if not archives:
        raise CannotBuild("no Debian archive in /etc/apt")
    return Mirrors(archives[0], next((a for a in addresses if a.endswith("debian-security")), None))


def extra_certificates() -> list[str]:
    """Return the authorities the host trusts that are not in Debian's own set, as PEM."""
    if not HOST_BUNDLE.exists():
        return []
    known = "".join(file.read_text() for file in Path("/usr/share/ca-certificates").rglob("*.crt"))
    return [pem.strip() + "\n" for pem in _CERTIFICATE.findall(HOST_BUNDLE.read_text()) if pem.strip() not in known]


def pip_settings() -> dict[str, str]:
    """Return where the host's pip looks for packages: index-url, extra-index-url, find-links; those that are set."""
    pip = shutil.which("pip3") or shutil.which("pip")
    if pip is None:
        return {}
    listing = subprocess.run([pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    found: dict[str, str] = {}
    for section, key, value in re.findall(r"^(:env:|global|install)\.([a-z-]+)='(.*)'$", listing, re.MULTILINE):
        if key in {"index-url", "extra-index-url", "find-links"} and (section == ":env:" or key not in found):
            found[key] = value
    return found


def pip_folders(settings: Mapping[str, str]) -> list[Path]:
    """Return the folders of this machine that the settings name, shortest first."""
    words = " ".join(settings.values()).split()
    paths = {Path(word.removeprefix("file://")) for word in words if word.startswith(("/", "file://"))}
    # An index in a folder refers to files beside it.
    folders = {path.parent if path.name == "simple" else path for path in paths}
    return sorted(folder for folder in folders if folder.is_dir())


def render_pip_conf(settings: Mapping[str, str]) -> str:
    """Return a pip.conf with these settings that trusts what the host trusts."""
    lines = ["[global]", f"cert = {BUNDLE}", "disable-pip-version-check = true"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in settings.items())]) + "\n"


def chroot(root: Path, script: str) -> str:
    """Run a bash script in a tree and return its output; BuildFailed with its last lines if it fails.

    In mount and pid namespaces of its own, so that whatever it mounts or starts goes away with it.
    """
    mounts = (
        'mount -t proc proc "$0/proc"; mount -t sysfs -o ro sysfs "$0/sys"; mount --rbind /dev "$0/dev";'
        'exec chroot "$0" bash -ec "$1"'
    )
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "bash", "-ec", mounts, str(root), script]
    done = subprocess.run(argv, env=_CHROOT_ENV, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise BuildFailed(f"in {root.name}: " + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return done.stdout


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the test bed's lock of this name: two test runs must not build the same thing at once."""
    TOP.mkdir(parents=True, exist_ok=True)
    with (TOP / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def recipe_stamp(*parts: object) -> str:
    """Return a short digest of what something is made from; another digest means: make it again."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]


def ensure_tree(suite: str, include: Sequence[str] = ()) -> Path:
    """Return the cached tree of a suite, `minbase` and these packages; made if it is not there (half a minute).

    Raises CannotBuild, BuildFailed. Nobody writes to a cached tree: copy it, or lay an overlay over it.
    """
    require({"debootstrap": "debootstrap", "unshare": "util-linux"})
    mirrors = read_mirrors()
    certificates = extra_certificates()
    pip = pip_settings()
    stamp = recipe_stamp(suite, *include, mirrors, *certificates, pip, Path(__file__).read_text())
    tree = TOP / "trees" / f"{suite}-{stamp}"
    with locked(f"tree-{suite}"):
        if tree.is_dir():
            os.utime(tree)
            return tree
        _prune(tree.parent)
        work = tree.with_suffix(".work")
        shutil.rmtree(work, ignore_errors=True)
        work.parent.mkdir(parents=True, exist_ok=True)
        _debootstrap(suite, include, mirrors, work)
        _take_over(work, suite, mirrors, certificates, pip)
        # Package lists are fetched here once, as a machine that was just installed has them.
        chroot(work, "apt-get -qq update; apt-get -qq clean; rm -f /var/log/*.log /var/log/apt/*")
        work.rename(tree)
    return tree


def _prune(trees: Path, *, days: float = 3) -> None:
    """Remove trees that nobody asked for in some days: each change of a recipe makes a new one."""
    for tree in trees.glob("*"):
        if time.time() - tree.stat().st_mtime > days * 86_400:
            shutil.rmtree(tree)


def _debootstrap(suite: str, include: Sequence[str], mirrors: Mirrors, root: Path) -> None:
    cache = TOP / "debs"
    cache.mkdir(exist_ok=True)
    argv = ["debootstrap", "--variant=minbase", f"--cache-dir={cache}"]
    if include:
        argv.append("--include=" + ",".join(include))
    done = subprocess.run(
        [*argv, suite, str(root), mirrors.main], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        log = root / "debootstrap/debootstrap.log"
        tail = log.read_text().splitlines()[-10:] if log.exists() else done.stderr.splitlines()[-10:]
        raise BuildFailed(f"debootstrap {suite}: " + "\n".join(tail))


def _take_over(root: Path, suite: str, mirrors: Mirrors, certificates: Sequence[str], pip: Mapping[str, str]) -> None:
    """Give a tree the host's mirrors, apt's ways of fetching, extra authorities and pip settings."""
    lines = [f"deb {mirrors.main} {suite} main"]
    if SUITES[suite] is not None:
        lines.append(f"deb {mirrors.main} {suite}-updates main")
    if SUITES[suite] is not None and mirrors.security:
        lines.append(f"deb {mirrors.security} {suite}-security main")
    (root / "etc/apt/sources.list").write_text("\n".join(lines) + "\n")
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    fetching = [line for line in dump if re.match(r"Acquire::(Check-|http|https|Retries|Proxy)", line)]
    (root / "etc/apt/apt.conf.d/99testbed").write_text("\n".join([*fetching, 'Acquire::Languages "none";']) + "\n")

    # Picked up by update-ca-certificates as soon as the package ca-certificates is there.
    authorities = root / "usr/local/share/ca-certificates"
    authorities.mkdir(parents=True, exist_ok=True)
    for number, pem in enumerate(certificates):
        (authorities / f"testbed-{number}.crt").write_text(pem)
    (root / "etc/ssl").mkdir(exist_ok=True)
    (root / BUNDLE.lstrip("/")).write_text(HOST_BUNDLE.read_text() if HOST_BUNDLE.exists() else "".join(certificates))
    (root / "etc/pip.conf").write_text(render_pip_conf(pip))
