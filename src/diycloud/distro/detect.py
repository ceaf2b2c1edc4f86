"""What this host is: distribution, tools, cgroups, security modules, /home, graphics processors.

All of it is read from files, so that any folder that holds a system's files can be examined as `root`.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path, PurePosixPath

import msgspec

from diycloud.distro.mounts import Mount, parse_mountinfo
from diycloud.distro.os_release import Distribution, Support, read_distribution, support
from diycloud.distro.tables import family
from diycloud.system import System

CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")
"""What limits and their measurement need; cgroup v2 counts CPU time without a controller of that name."""

_TOOL_PROGRAMS = {
    "apt": ("usr/bin/apt-get",),
    "dnf": ("usr/bin/dnf",),
    "yum": ("usr/bin/yum",),
    "pacman": ("usr/bin/pacman",),
    "zypper": ("usr/bin/zypper",),
    "apk": ("sbin/apk", "usr/bin/apk"),
}


class Init(StrEnum):
    """Who starts services here."""

    SYSTEMD = "systemd"
    OPENRC = "openrc"
    SYSV = "sysv"
    NONE = "none"
    """No init runs: the platform brings a supervisor of its own."""


class Cgroups(msgspec.Struct, frozen=True):
    """version: `v2`, `v1`, `hybrid` (both mounted, the controllers in v1) or `none`. mounts: controller → its folder.

    missing: of CONTROLLERS, what this host does not offer; read_only: mounted, but not to be written to.
    """

    version: str
    mounts: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.missing and not self.read_only


class HomeFolder(msgspec.Struct, frozen=True):
    """The file system below /home. quota: `user` (mounted with user quotas), `off` (it could), `none` (it cannot)."""

    file_system: str
    device: str
    mount_point: str
    quota: str


class Gpu(msgspec.Struct, frozen=True):
    """vendor: `nvidia` or `amd`; address: on the PCI bus; model: as the driver names it, empty without one."""

    vendor: str
    address: str
    model: str = ""


class HostFacts(msgspec.Struct, frozen=True):
    """Everything detection found out."""

    distribution: Distribution
    support: Support
    arch: str
    package_tool: str
    """`apt`, `dnf`, `yum`, `pacman`, `zypper`, `apk`, or empty if the family's program is not there."""
    init: Init
    cgroups: Cgroups
    virtualization: str
    """`docker`, `podman`, `lxc`, `systemd-nspawn`, `wsl`, `kvm`, `vm`…, or `none`."""
    security_module: str
    """`selinux enforcing`, `selinux permissive`, `apparmor` or `none`."""
    firewall: str
    """`ufw`, `firewalld`, `nftables` or `none`: what is set to run at boot."""
    home: HomeFolder
    gpus: tuple[Gpu, ...] = ()


def detect(system: System, root: Path = Path("/")) -> HostFacts:
    """Examine a host. Raises Unsupported for a distribution that cannot be placed (os_release.py)."""
    distribution = read_distribution(system, root)
    mounts = parse_mountinfo(system.read(root / "proc/self/mountinfo") or "")
    return HostFacts(
        distribution=distribution,
        support=support(distribution),
        arch=(system.query(["uname", "-m"]).stdout.strip() if root == Path("/") else ""),
        package_tool=_package_tool(system, root, family(distribution.family).package_tool),
        init=read_init(system, root),
        cgroups=_cgroups(system, root, mounts),
        virtualization=_virtualization(system, root),
        security_module=_security_module(system, root),
        firewall=_firewall(system, root),
        home=_home(mounts),
        gpus=_gpus(system, root),
    )


def _package_tool(system: System, root: Path, preferred: tuple[str, ...]) -> str:
    for tool in preferred:
        if any(system.exists(root / program) for program in _TOOL_PROGRAMS[tool]):
            return tool
    return ""


def read_init(system: System, root: Path = Path("/")) -> Init:
    """Tell which init runs. Sources: sd_booted(3); OpenRC's /run/openrc; SysV: inittab and the first process."""
    if system.exists(root / "run/systemd/system"):
        return Init.SYSTEMD
    if system.exists(root / "run/openrc/softlevel"):
        return Init.OPENRC
    first = (system.read(root / "proc/1/comm") or "").strip()
    return Init.SYSV if first == "init" and system.exists(root / "etc/inittab") else Init.NONE


def _cgroups(system: System, root: Path, mounts: list[Mount]) -> Cgroups:
    v1 = {name: mount for mount in mounts if mount.kind == "cgroup" for name in mount.super_options & {*CONTROLLERS}}
    v2 = next((mount for mount in mounts if mount.kind == "cgroup2"), None)
    offered: dict[str, Mount] = v1
    if v2 is not None and not v1:
        names = (system.read(root / v2.point.lstrip("/") / "cgroup.controllers") or "").split()
        offered = {name: v2 for name in CONTROLLERS if name in names or name == "cpuacct"}
    version = {(True, True): "hybrid", (True, False): "v1", (False, True): "v2"}.get((bool(v1), v2 is not None), "none")
    return Cgroups(
        version=version,
        mounts={name: mount.point for name, mount in offered.items()},
        missing=tuple(name for name in CONTROLLERS if name not in offered),
        read_only=tuple(name for name in CONTROLLERS if name in offered and "ro" in offered[name].options),
    )


_MACHINES = (
    ("qemu", "kvm"),
    ("kvm", "kvm"),
    ("virtualbox", "virtualbox"),
    ("vmware", "vmware"),
    ("microsoft", "hyper-v"),
    ("xen", "xen"),
    ("amazon", "amazon"),
    ("google", "google"),
)


def _virtualization(system: System, root: Path) -> str:
    container = (system.read(root / "run/systemd/container") or "").strip()
    if container:
        return container
    for marker, name in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if system.exists(root / marker):
            return name
    match = re.search(r"(?:\A|\0)container=([\w-]+)", system.read(root / "proc/1/environ") or "")
    if match:
        return match[1]
    if "microsoft" in (system.read(root / "proc/sys/kernel/osrelease") or "").lower():
        return "wsl"
    names = [system.read(root / "sys/class/dmi/id" / name) or "" for name in ("sys_vendor", "product_name")]
    for word, name in _MACHINES:
        if word in " ".join(names).lower():
            return name
    return "vm" if re.search(r"^flags\s*:.*\bhypervisor\b", system.read(root / "proc/cpuinfo") or "", re.M) else "none"


def _security_module(system: System, root: Path) -> str:
    enforce = (system.read(root / "sys/fs/selinux/enforce") or "").strip()
    if enforce:
        return "selinux enforcing" if enforce == "1" else "selinux permissive"
    enabled = (system.read(root / "sys/module/apparmor/parameters/enabled") or "").strip()
    return "apparmor" if enabled == "Y" else "none"


def _firewall(system: System, root: Path) -> str:
    if re.search(r"^\s*ENABLED=yes\s*$", system.read(root / "etc/ufw/ufw.conf") or "", re.M | re.I):
        return "ufw"
    wanted = root / "etc/systemd/system"
    if system.exists(wanted / "multi-user.target.wants/firewalld.service"):
        return "firewalld"
    return "nftables" if system.exists(wanted / "sysinit.target.wants/nftables.service") else "none"


_USER_QUOTA = {"usrquota", "uquota", "quota", "usrjquota"}


def _home(mounts: list[Mount]) -> HomeFolder:
    above = [mount for mount in mounts if PurePosixPath("/home").is_relative_to(mount.point)]
    if not above:
        return HomeFolder("unknown", "", "/", "none")
    # The deepest mount point holds /home; of two on the same point the later one hides the earlier.
    mount = max(enumerate(above), key=lambda pair: (len(PurePosixPath(pair[1].point).parts), pair[0]))[1]
    options = {option.partition("=")[0] for option in mount.options | mount.super_options}
    quota = "none"
    if mount.kind in ("ext2", "ext3", "ext4", "xfs"):
        quota = "user" if options & _USER_QUOTA else "off"
    return HomeFolder(mount.kind, mount.source, mount.point, quota)


_VENDORS = {"0x10de": "nvidia", "0x1002": "amd"}


def _gpus(system: System, root: Path) -> tuple[Gpu, ...]:
    """Read display controllers (PCI class 0x03) of the two vendors."""
    found = []
    bus = root / "sys/bus/pci/devices"
    for address in system.list_dir(bus):
        vendor = _VENDORS.get((system.read(bus / address / "vendor") or "").strip())
        if vendor and (system.read(bus / address / "class") or "").startswith("0x03"):
            driver = system.read(root / "proc/driver/nvidia/gpus" / address / "information") or ""
            model = re.search(r"^Model:\s*(.+?)\s*$", driver, re.M)
            found.append(Gpu(vendor, address, model[1] if model else ""))
    return tuple(found)
