"""Disk images of Debian machines with systemd: made at this machine's own speed in a chroot, then kept.

Three disks: / (ext4), /home (ext4 with user, group and project quotas), /data (XFS with user and project quotas).
Two tags: `base`, a bare server; `ready`, which has what our installation would fetch and unpack: its Debian packages, a
folder of our pinned Python packages that pip is told to use, and the environments made of them: the program's own and
those of notebooks. An emulated machine takes minutes for what a chroot does in seconds, so most tests use `ready`; that
the installation makes all this by itself is tested in tests/bare.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bare import debian

IMAGES = debian.TOP / "machines" / "images"
KEY = debian.TOP / "machines" / "key"
REPOSITORY = Path(__file__).resolve().parents[2]
REQUIREMENTS = REPOSITORY / "requirements"
PROGRAM = "/opt/diycloud"
ENVIRONMENT = f"{PROGRAM}/venv"
MAKERS = ("core/environments.py", "core/notebook_steps.py")
"""The program's modules that make the environments of notebooks."""
WHEELS = "/var/cache/testbed-wheels"

PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "debootstrap": "debootstrap",
    "mke2fs": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "ssh": "openssh-client",
}
BASE = (
    *(
        "systemd",
        "systemd-sysv",
        "dbus",
        "libpam-systemd",
        "udev",
        "kmod",
        "linux-image-cloud-amd64",
        "initramfs-tools",
    ),
    *("openssh-server", "iproute2", "procps", "sudo", "cron", "ca-certificates", "e2fsprogs", "xfsprogs"),
)
READY = ("python3-venv", "python3-pip", "nginx", "libpam-google-authenticator", "openssl", "curl", "postgresql")
ASLEEP = ("postgresql",)
"""Services of READY's that only run where a test starts them."""

# Jobs of the distribution that would run in the middle of a measurement, and waits that no test needs. The quota
# feature of ext4 enforces from the mount on; the unit that turns quotas on then fails on what is already on.
MASKED = (
    *("systemd-networkd-wait-online.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer", "man-db.timer", "logrotate.timer"),
    *("quotaon.service", "quotaon@home.service", "systemd-binfmt.service"),
)
FILES = {
    "etc/hostname": "testbed\n",
    "etc/hosts": "127.0.0.1 localhost testbed\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 0\n"
    "/dev/vdb /home ext4 usrquota,grpquota,prjquota,nofail 0 0\n"
    "/dev/vdc /data xfs uquota,pquota,nofail 0 0\n",
    # The addresses of QEMU's user-mode network (its manual, "Using the user mode network stack").
    "etc/systemd/network/10-testbed.network": "[Match]\nName=eth0\n\n"
    "[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    # Only the drivers this machine needs: unpacking the full set is a good part of an emulated boot.
    "etc/initramfs-tools/conf.d/testbed": "MODULES=list\nCOMPRESS=gzip\n",
    "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\nvirtio_net\next4\nquota_v2\n",
}
RESOLVER = "nameserver 10.0.2.3\n"


def ensure_image(suite: str, tag: str = "base") -> Path:
    """Return the folder of an image: vmlinuz, initrd.img, root.raw, home.raw, data.raw. Made if it is not there.

    Raises CannotBuild, BuildFailed. A minute from nothing, no time when cached; made anew when what it is made of changes.
    """
    debian.require(PROGRAMS)
    tree = debian.ensure_tree(suite, BASE)
    requirements = _requirements() if tag == "ready" else []
    sources = [Path(__file__), *requirements, *(REPOSITORY / "src/diycloud" / maker for maker in MAKERS)]
    stamp = debian.recipe_stamp(tree.name, tag, *(source.read_text() for source in sources))
    image = IMAGES / f"{suite}-{tag}-{stamp}"
    with debian.locked(f"image-{suite}-{tag}"):
        if image.is_dir():
            return image
        _ensure_key()
        for old in IMAGES.glob(f"{suite}-{tag}-*"):
            shutil.rmtree(old)
        work = image.with_suffix(".work")
        work.mkdir(parents=True)
        root = work / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(tree), str(root)], check=True)
        _configure(root)
        if tag == "ready":
            _make_ready(root, requirements)
        _finish(root)
        _make_disks(root, work)
        shutil.rmtree(root)
        work.rename(image)
    return image


def _requirements() -> list[Path]:
    """The lock files of what the program itself needs."""
    return sorted(path for path in REQUIREMENTS.glob("*.txt") if not path.stem.startswith(("test", "dev")))


def _ensure_key() -> None:
    KEY.parent.mkdir(parents=True, exist_ok=True)
    if not KEY.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "testbed", "-f", str(KEY)], check=True)


def _configure(root: Path) -> None:
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "data").mkdir()
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    (ssh / "authorized_keys").write_text(KEY.with_suffix(".pub").read_text())
    remote = {k: v for k, v in debian.pip_settings().items() if not debian.pip_folders({k: v})}
    (root / "etc/pip.conf").write_text(debian.render_pip_conf(remote))
    debian.chroot(
        root,
        "update-ca-certificates --fresh; update-initramfs -u -k all; systemctl enable systemd-networkd ssh;"
        f"systemctl mask {' '.join(MASKED)}",
    )


def _make_ready(root: Path, requirements: Sequence[Path]) -> None:
    """Install the packages, and fetch our Python packages into a folder that pip then uses instead of an index."""
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    debian.chroot(root, f"apt-get -qq -y --no-install-recommends install {' '.join(READY)}; apt-get clean")
    debian.chroot(root, f"systemctl disable {' '.join(ASLEEP)}")
    policy.unlink()
    for path in requirements:
        shutil.copy(path, root / "tmp" / path.name)
    names = " ".join(f"-r /tmp/{path.name}" for path in requirements)
    if names:
        debian.chroot(
            root, f"pip download --quiet --no-deps --only-binary :all: --dest {WHEELS} {names}; rm /tmp/*.txt"
        )
        (root / "etc/pip.conf").write_text(debian.render_pip_conf({"no-index": "true", "find-links": WHEELS}))
        _make_environment(root)
        _make_notebook_environments(root)


def _make_environment(root: Path) -> None:
    """Make the program's environment as install.sh does; where this is not quite so, it makes it again by itself."""
    shutil.copy(REQUIREMENTS / "runtime.txt", root / "tmp/runtime.txt")
    debian.chroot(
        root,
        f"python3 -m venv {ENVIRONMENT}; {ENVIRONMENT}/bin/pip install -q --no-cache-dir --require-hashes -r /tmp/runtime.txt;"
        f'echo "$(sha256sum < /tmp/runtime.txt) $(python3 -c "import sys; print(sys.version)")" > {ENVIRONMENT}/.made-from;'
        "rm /tmp/runtime.txt",
    )


def _make_notebook_environments(root: Path) -> None:
    """Have the program make the environments of notebooks, from where it will be installed; it is not left there."""
    program = root / PROGRAM.lstrip("/")
    shutil.copytree(REPOSITORY / "src/diycloud", program / "lib/diycloud", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REQUIREMENTS, program / "requirements")
    make = (
        f'import sys; sys.path.insert(0, "{PROGRAM}/lib");'
        "from diycloud.core.notebook_steps import environments;"
        "from diycloud.core.installation import Installation;"
        "from diycloud.core.options import InstallOptions;"
        "from diycloud.system.local import Local;"
        "print(environments(Installation(Local(), InstallOptions())))"
    )
    debian.chroot(root, f"{ENVIRONMENT}/bin/python -I -c '{make}'")
    shutil.rmtree(program / "lib")
    shutil.rmtree(program / "requirements")


def _finish(root: Path) -> None:
    """Do now what a first boot would do, and point to the resolver that QEMU gives."""
    debian.chroot(
        root, "systemd-machine-id-setup; ldconfig; rm -rf /root/.cache; touch -r /usr /etc/.updated /var/.updated"
    )
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text(RESOLVER)


def _make_disks(root: Path, image: Path) -> None:
    for kind in ("vmlinuz", "initrd.img"):
        newest = max((root / "boot").glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
        shutil.copy(newest, image / kind)
    quotas = ["-O", "quota,project", "-E", "quotatype=usrquota:grpquota:prjquota"]
    _make_disk(image / "root.raw", "8G", ["mke2fs", "-q", "-t", "ext4", "-d", str(root)])
    _make_disk(image / "home.raw", "2G", ["mke2fs", "-q", "-t", "ext4", *quotas])
    _make_disk(image / "data.raw", "1G", ["mkfs.xfs", "-q"])


def _make_disk(path: Path, size: str, make: Sequence[str]) -> None:
    """Make a sparse file with a file system in it."""
    subprocess.run(["truncate", "--size", size, str(path)], check=True)
    subprocess.run([*make, str(path)], check=True, stdin=subprocess.DEVNULL)
