"""apt: what is asked of it, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from diycloud.distro.packages import POLICY, Apt
from diycloud.distro.tables import family
from diycloud.errors import HostError, Unsupported
from diycloud.system import Result
from diycloud.system.fake import Fake


class Debian:
    """Answers for dpkg and apt of a small imaginary Debian."""

    def __init__(self, *, installed: Sequence[str] = (), index: Sequence[str] = ("nginx", "sqlite3")) -> None:
        self.installed = dict.fromkeys(installed, "1.0-1")
        self.index = set(index)
        self.failures: list[str] = []
        self.fake = Fake({"/usr/sbin/x": ""})
        self.fake._execute = self._execute  # type: ignore[method-assign]
        self.slept: list[float] = []
        self.policies: list[str | None] = []

    def apt(self, **options) -> Apt:
        return Apt(self.fake, family("debian"), sleep=self.slept.append, **options)

    def changes(self) -> list[str]:
        return [line for line in self.fake.ran if line.startswith(("apt-get", "dpkg "))]

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        self.fake.ran.append(" ".join(argv))
        package = argv[-1]
        if argv[0] == "dpkg-query":
            if package == "half":
                return Result(0, "iU \t2.0\n", "")
            version = self.installed.get(package)
            return Result(0, f"ii \t{version}\n", "") if version else Result(1, "", "no packages found")
        if argv[0] == "apt-cache":
            return Result(0, f"{package}:\n  Candidate: 1.0\n" if package in self.index else "", "")
        if argv[0] == "apt-get":
            return self._apt_get(argv)
        return Result(0, "", "")

    def _apt_get(self, argv: Sequence[str]) -> Result:
        if self.failures:
            return Result(100, "", self.failures.pop(0))
        if "update" in argv:
            self.index |= {"late", "cron"}
        if "install" in argv and "--" in argv:
            self.policies.append(self.fake.read(POLICY))
            self.installed |= dict.fromkeys(argv[argv.index("--") + 1 :], "1.0-1")
        if "remove" in argv:
            for name in argv[argv.index("--") + 1 :]:
                del self.installed[name]
        return Result(0, "", "")


def test_what_is_installed_is_not_installed_again():
    host = Debian(installed=["nginx"])
    assert host.apt().install(["nginx"]) == []
    assert host.changes() == []


def test_only_what_is_missing_is_installed_without_a_refresh():
    host = Debian(installed=["nginx"])
    assert host.apt().install(["nginx", "sqlite3", "sqlite3"]) == ["sqlite3"]
    (line,) = host.changes()
    assert line.endswith("-- sqlite3")
    assert "DPkg::Lock::Timeout=600" in line


def test_the_index_is_fetched_when_a_package_is_not_in_it():
    host = Debian()
    assert host.apt().install(["cron"]) == ["cron"]
    assert [line.split()[3] for line in host.changes()] == ["update", "install"]


def test_the_index_is_fetched_when_the_archive_has_moved_on():
    host = Debian()
    host.failures = ["E: Failed to fetch http://deb/nginx_1.0.deb  404  Not Found"]
    assert host.apt().install(["nginx"]) == ["nginx"]
    assert [line.split()[3] for line in host.changes()] == ["install", "update", "install"]


def test_an_interrupted_installation_is_finished_first():
    host = Debian()
    host.failures = ["E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."]
    host.apt().install(["nginx"])
    assert host.changes()[1] == "dpkg --force-confdef --force-confold --configure -a"
    assert "--fix-broken" in host.changes()[2]
    assert "nginx" in host.installed


@pytest.mark.parametrize("lock", ["/var/lib/apt/lists/lock", "/var/cache/apt/archives/lock"])
def test_a_held_lock_is_waited_for(lock):
    host = Debian()
    host.failures = [f"E: Could not get lock {lock}. It is held by process 7 (apt-get)"] * 3
    assert host.apt().install(["nginx"]) == ["nginx"]
    assert host.slept == [2.0] * 3


def test_waiting_for_a_lock_ends():
    host = Debian()
    host.failures = ["E: Could not get lock /var/lib/apt/lists/lock"] * 99
    with pytest.raises(HostError, match="Could not get lock"):
        host.apt(lock_seconds=10).install(["nginx"])
    assert sum(host.slept) == 10


def test_errors_carry_apts_own_words_and_are_not_tried_again():
    host = Debian()
    host.failures = ["E: You don't have enough free space in /var/cache/apt/archives/."]
    with pytest.raises(HostError, match="enough free space"):
        host.apt().install(["nginx"])
    assert len(host.changes()) == 1


def test_half_installed_is_not_installed():
    table = family("debian")
    host = Debian()
    apt = Apt(host.fake, type(table)(**{**_fields(table), "packages": {"half": ("half",)}}))
    assert apt.remove(["half"]) == [] and host.changes() == []


def _fields(struct) -> dict[str, object]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_start_scripts_are_forbidden_and_allowed_afterwards():
    host = Debian()
    host.apt().install(["nginx"])
    assert "exit 101" in (host.policies[0] or "")
    assert not host.fake.exists(POLICY)


def test_the_hosts_own_policy_stays():
    host = Debian()
    host.fake.write(POLICY, "#!/bin/sh\nexit 104\n", mode=0o755)
    host.apt().install(["nginx"])
    assert host.fake.read(POLICY) == "#!/bin/sh\nexit 104\n"


def test_the_policy_goes_even_when_the_installation_fails():
    host = Debian()
    host.failures = ["E: no"]
    with pytest.raises(HostError):
        host.apt().install(["nginx"])
    assert not host.fake.exists(POLICY)


def test_remove_takes_only_what_is_there():
    host = Debian(installed=["nginx"])
    assert host.apt().remove(["nginx", "sqlite3"]) == ["nginx"]
    assert host.apt().remove(["nginx"]) == []


def test_unknown_generic_names_are_refused_before_anything_runs():
    host = Debian()
    with pytest.raises(Unsupported):
        host.apt().install(["nginx", "emacs"])
    assert host.changes() == []


def test_owner_of_a_file():
    fake = Fake(commands={"dpkg-query -S /usr/sbin/nginx": "nginx-core, nginx: /usr/sbin/nginx\n"})
    assert Apt(fake, family("debian")).owner_of("/usr/sbin/nginx") == "nginx-core"
    fake = Fake(commands={"dpkg-query -S /x": Result(1, "", "no path found")})
    assert Apt(fake, family("debian")).owner_of("/x") is None
