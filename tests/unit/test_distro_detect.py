"""Detection: every supported distribution's os-release, and each fact from the files it is read from."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from diycloud.distro.detect import Gpu, Init, detect
from diycloud.distro.mounts import parse_mountinfo
from diycloud.distro.network import read_identity
from diycloud.distro.os_release import parse_os_release, read_distribution, support
from diycloud.distro.tables import FAMILIES, family
from diycloud.errors import Unsupported
from diycloud.system import Local
from diycloud.system.fake import Fake

DATA = Path(__file__).parent / "data" / "os-release"
EXPECTED = tomllib.loads((DATA / "expected.toml").read_text())
DEBIAN = (DATA / "debian-12").read_text()


def test_every_file_has_a_row_in_the_table():
    assert {path.name for path in DATA.iterdir()} == {*EXPECTED, "expected.toml"}


@pytest.mark.parametrize("place", ["etc/os-release", "usr/lib/os-release"])
@pytest.mark.parametrize("name", EXPECTED)
def test_distribution(tmp_path, name, place):
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text((DATA / name).read_text())
    found = read_distribution(Local(), tmp_path)
    row = EXPECTED[name]
    assert (found.id, found.family, found.version, found.pretty_name) == (
        row["id"],
        row["family"],
        row["version"],
        row["pretty_name"],
    )
    assert support(found) == row["support"]
    assert found.known is (row["support"] != "derived")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ID=debian", "debian"),
        ("ID='debian'", "debian"),
        ('ID="debian"', "debian"),
        ('  ID="debian"  \r', "debian"),
        ("ID=arch\nID=debian", "debian"),
        ("# ID=arch\nID=debian", "debian"),
        (r'ID="a \"b\" \$c \\ \`d\`"', 'a "b" $c \\ `d`'),
        (r'ID="a\nb"', r"a\nb"),
        (r"ID='a\"b'", r"a\"b"),
        (r"ID=a\ b", "a b"),
        ("ID=", ""),
        ('ID=""', ""),
        ('ID="', '"'),
        ("ID=a=b", "a=b"),
        ("ID=\x1b[31mred\x07", "[31mred"),
    ],
)
def test_syntax(text, value):
    assert parse_os_release(text)["ID"] == value


@pytest.mark.parametrize("text", ["", "ID", "=x", "id=debian", "export ID=debian", "\udcff\udcfe", "ID debian"])
def test_what_is_no_assignment_is_passed_over(text):
    assert parse_os_release(text) == {}


def test_hostile_content_is_only_text(tmp_path):
    mark = tmp_path / "ran"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text(
        f'ID=debian\nPRETTY_NAME="$(touch {mark})`touch {mark}`"\nID_LIKE=x;touch {mark}\ntouch {mark}\n'
    )
    found = read_distribution(Local(), tmp_path)
    assert found.pretty_name == f"$(touch {mark})`touch {mark}`"
    assert not mark.exists()


def test_a_distribution_that_cannot_be_placed_is_named():
    with pytest.raises(Unsupported, match=r"ID='plan9', ID_LIKE='unix research'"):
        read_distribution(Fake({"/etc/os-release": 'ID=plan9\nID_LIKE="unix research"\n'}))


def test_no_os_release_names_both_places():
    with pytest.raises(Unsupported, match="/etc/os-release or /usr/lib/os-release"):
        read_distribution(Fake())


def test_the_first_place_wins():
    files = {"/etc/os-release": "ID=debian\n", "/usr/lib/os-release": "ID=fedora\n"}
    assert read_distribution(Fake(files)).id == "debian"


def test_every_family_has_the_same_generic_names():
    first = family(FAMILIES[0])
    for name in FAMILIES:
        table = family(name)
        assert table.packages.keys() == first.packages.keys()
        assert table.services.keys() == first.services.keys()
        assert table.binaries.keys() == first.binaries.keys()


def test_unknown_generic_names_are_refused():
    with pytest.raises(Unsupported):
        family("debian").package_names("emacs")
    with pytest.raises(Unsupported):
        family("debian").service_name("emacs")
    with pytest.raises(Unsupported):
        family("haiku")


def facts(files: dict[str, str]):
    """Detect in a Fake whose root is /r, so that no command is run."""
    return detect(Fake({f"/r{path}": text for path, text in {"/etc/os-release": DEBIAN, **files}.items()}), Path("/r"))


def test_a_bare_root_has_nothing():
    found = facts({})
    assert (found.package_tool, found.init, found.cgroups.version) == ("", Init.NONE, "none")
    assert found.cgroups.missing == ("cpu", "cpuacct", "memory", "pids")
    assert not found.cgroups.usable
    assert (found.virtualization, found.security_module, found.firewall) == ("none", "none", "none")
    assert found.gpus == ()


@pytest.mark.parametrize(
    ("files", "init"),
    [
        ({"/run/systemd/system/x": ""}, Init.SYSTEMD),
        ({"/run/openrc/softlevel": "default"}, Init.OPENRC),
        ({"/proc/1/comm": "init\n", "/etc/inittab": ""}, Init.SYSV),
        ({"/proc/1/comm": "init\n"}, Init.NONE),
        ({"/proc/1/comm": "bash\n", "/etc/inittab": ""}, Init.NONE),
    ],
)
def test_init(files, init):
    assert facts(files).init is init


V1 = """\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory {memory},relatime - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
35 30 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
V2 = "40 30 0:35 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


def test_cgroup_v1():
    found = facts({"/proc/self/mountinfo": V1.format(memory="rw")}).cgroups
    assert (found.version, found.usable, found.mounts["memory"]) == ("v1", True, "/sys/fs/cgroup/memory")


def test_cgroup_v1_with_a_mount_that_cannot_be_written():
    found = facts({"/proc/self/mountinfo": V1.format(memory="ro")}).cgroups
    assert (found.usable, found.read_only) == (False, ("memory",))


def test_cgroup_v1_with_joined_controllers():
    text = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    found = facts({"/proc/self/mountinfo": text}).cgroups
    assert (found.version, found.missing) == ("v1", ("memory", "pids"))


def test_cgroup_v2():
    files = {"/proc/self/mountinfo": V2, "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n"}
    assert facts(files).cgroups.usable
    files["/sys/fs/cgroup/cgroup.controllers"] = "cpu\n"
    assert facts(files).cgroups.missing == ("memory", "pids")


def test_cgroup_hybrid():
    unified = "40 30 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    found = facts({"/proc/self/mountinfo": V1.format(memory="rw") + unified}).cgroups
    assert (found.version, found.usable) == ("hybrid", True)


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/run/systemd/container": "systemd-nspawn\n"}, "systemd-nspawn"),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": ""}, "podman"),
        ({"/proc/1/environ": "PATH=/bin\0container=lxc\0"}, "lxc"),
        ({"/proc/1/environ": "notcontainer=lxc\0"}, "none"),
        ({"/proc/sys/kernel/osrelease": "5.15.90.1-microsoft-standard-WSL2\n"}, "wsl"),
        ({"/sys/class/dmi/id/sys_vendor": "QEMU\n"}, "kvm"),
        ({"/sys/class/dmi/id/product_name": "VMware Virtual Platform\n"}, "vmware"),
        ({"/proc/cpuinfo": "processor: 0\nflags\t\t: fpu hypervisor lm\n"}, "vm"),
        ({"/proc/cpuinfo": "processor: 0\nflags\t\t: fpu lm\n"}, "none"),
    ],
)
def test_virtualization(files, name):
    assert facts(files).virtualization == name


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/sys/fs/selinux/enforce": "1"}, "selinux enforcing"),
        ({"/sys/fs/selinux/enforce": "0"}, "selinux permissive"),
        ({"/sys/module/apparmor/parameters/enabled": "Y\n"}, "apparmor"),
        ({"/sys/module/apparmor/parameters/enabled": "N\n"}, "none"),
    ],
)
def test_security_module(files, name):
    assert facts(files).security_module == name


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"/etc/ufw/ufw.conf": "# x\nENABLED=yes\n"}, "ufw"),
        ({"/etc/ufw/ufw.conf": "ENABLED=no\n"}, "none"),
        ({"/etc/systemd/system/multi-user.target.wants/firewalld.service": ""}, "firewalld"),
        ({"/etc/systemd/system/sysinit.target.wants/nftables.service": ""}, "nftables"),
    ],
)
def test_firewall(files, name):
    assert facts(files).firewall == name


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n", ("ext4", "/", "off")),
        (
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 8:2 / /home rw - ext4 /dev/sda2 rw,usrquota,grpquota\n",
            ("ext4", "/home", "user"),
        ),
        (
            "2 1 8:2 / /home rw - xfs /dev/sda2 rw,attr2,usrquota\n3 1 8:2 / /homework rw - ext4 /dev/x rw\n",
            ("xfs", "/home", "user"),
        ),
        ("1 0 0:2 / / rw - overlay overlay rw,lowerdir=/a\n", ("overlay", "/", "none")),
        (
            "2 1 8:2 / /home rw - ext4 /dev/sda2 rw\n3 2 8:3 / /home rw - xfs /dev/sdb rw,noquota\n",
            ("xfs", "/home", "off"),
        ),
    ],
)
def test_home(lines, expected):
    home = facts({"/proc/self/mountinfo": lines}).home
    assert (home.file_system, home.mount_point, home.quota) == expected


def test_mount_points_are_unescaped():
    (mount,) = parse_mountinfo("1 0 8:1 / /mnt/a\\040b\\134c rw master:1 - ext4 /dev/sda rw\n")
    assert mount.point == "/mnt/a b\\c"


def test_gpus():
    pci = "/sys/bus/pci/devices"
    files = {
        f"{pci}/0000:01:00.0/vendor": "0x10de\n",
        f"{pci}/0000:01:00.0/class": "0x030200\n",
        "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA A100\nIRQ: 3\n",
        f"{pci}/0000:01:00.1/vendor": "0x10de\n",
        f"{pci}/0000:01:00.1/class": "0x040300\n",
        f"{pci}/0000:02:00.0/vendor": "0x1002\n",
        f"{pci}/0000:02:00.0/class": "0x030000\n",
        f"{pci}/0000:03:00.0/vendor": "0x8086\n",
        f"{pci}/0000:03:00.0/class": "0x030000\n",
    }
    assert facts(files).gpus == (Gpu("nvidia", "0000:01:00.0", "NVIDIA A100"), Gpu("amd", "0000:02:00.0", ""))


def test_package_tool_prefers_dnf_over_yum():
    rhel = {"/etc/os-release": (DATA / "rocky-8").read_text(), "/usr/bin/yum": ""}
    assert facts(rhel).package_tool == "yum"
    assert facts({**rhel, "/usr/bin/dnf": ""}).package_tool == "dnf"


def test_own_addresses_come_with_the_default_route_first():
    trie = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 10.8.0.1
        /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 192.0.2.2
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
    route = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
wg0\t0000080A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""
    v6 = (
        "20010db8000000000000000000000005 02 40 00 80 eth0\n"
        "fe800000000000000000000000000001 02 40 20 80 eth0\n"
        "00000000000000000000000000000001 01 80 10 80 lo\n"
    )
    files = {
        "/proc/sys/kernel/hostname": "cloud\n",
        "/proc/net/fib_trie": trie,
        "/proc/net/route": route,
        "/proc/net/if_inet6": v6,
    }
    assert read_identity(Fake(files)) == ("cloud", ("192.0.2.2", "10.8.0.1", "2001:db8::5"))


def test_this_machine_can_be_examined():
    found = detect(Local())
    assert found.arch
    assert found.distribution.family in FAMILIES
