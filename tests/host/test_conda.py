"""Shared environments made by conda, from a channel of this machine's, and their kernels in a user's own server.

The programs and what they prove: tests/conda_bed.py. Whose a program must be for root to run it: with any program.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diycloud.config import Paths
from diycloud.core.conda import find_program
from diycloud.errors import HostError
from diycloud.host.trust import find_weakness
from diycloud.system import Local
from tests import notebooks
from tests.conda_bed import LARGE, WANTED, make_channel, programs
from tests.notebooks import Notebooks
from tests.stack import ROOT, Stack
from tests.visitor import Browser, Kernel

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: environments are root's")
USER = "dtcalice"
MEMORY = "600M"


# -- with conda


@pytest.fixture(scope="module")
def channel() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="dtc-channel-", dir="/var/tmp"))
    try:
        made = make_channel(folder / "channel")
        yield f"file://{made.folder}"
    except RuntimeError as error:
        pytest.skip(str(error))
    finally:
        shutil.rmtree(folder)


class Host:
    """A prefix with `diycloud jupyter env` for it. program: conda's, as the settings name it."""

    def __init__(self, prefix: Path, program: Path) -> None:
        self.prefix, self.paths = prefix, Paths(str(prefix))
        self.paths.config_dir.mkdir(parents=True, exist_ok=True)
        self.paths.config.write_text(f"notebooks:\n  conda: {program}\n")

    def start(self, *words: str, umask: int = 0o022) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "diycloud.cli.main", "--prefix", str(self.prefix), "jupyter", "env", *words]
        env = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT / "src"),
            "CONDARC": "/nonexistent",
            "HOME": "/nonexistent",
        }
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, umask=umask)

    def run(self, *words: str, ok: int = 0, umask: int = 0o022) -> str:
        """Run a verb and return all that it said."""
        process = self.start(*words, umask=umask)
        said = "".join(process.communicate(timeout=300))
        assert process.returncode == ok, said
        return said

    def kernel(self, name: str) -> dict:
        return {found["name"]: found for found in json.loads(self.run("list", "--json"))["environments"]}[name]

    def folder(self, name: str) -> Path:
        return self.paths.kernels / "envs" / name


@pytest.fixture(params=sorted(WANTED))
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    try:
        program = programs()[request.param]
    except RuntimeError as error:
        pytest.skip(str(error))
    prefix = Path(tempfile.mkdtemp(prefix="dtc-", dir="/var/tmp"))
    prefix.chmod(0o755)
    yield Host(prefix, program)
    shutil.rmtree(prefix)


@pytest.mark.exhaustive
def test_an_environment_comes_changes_and_goes(host: Host, channel: str) -> None:
    said = host.run("create", "stats", "--conda", "--channel", channel, "no-such-package", ok=8)
    assert "failed with status 1" in said and "no-such-package" in said, "conda's own last words"
    assert "not finished" in host.kernel("stats")["problem"]
    said = host.run("create", "stats", "--conda", "--channel", channel, "small=1", "plain-kernel", umask=0)
    assert "stats has 2 packages" in said and "offer it as stats.plain" in said
    made = host.kernel("stats")
    assert (
        made["problem"] == "" and made["kind"] == "conda" and {*made["packages"]} == {"small 1.0", "plain-kernel 1.0"}
    )
    said = host.run("install", "stats", "small>=2")
    assert "small 2.0" in host.kernel("stats")["packages"], "from the channel it was made with"
    assert (host.folder("stats") / "share/small.txt").read_text() == "2.0\n"
    said = host.run("install", "stats", "needs-what-is-not-there", ok=8)
    assert "nowhere" in said
    assert host.kernel("stats")["problem"] == "" and "small 2.0" in host.kernel("stats")["packages"]
    host.run("install", "stats", "odd")
    assert "odd 1.0" in host.kernel("stats")["packages"], "what could not be is not asked for again"
    assert "filled by conda" in host.run("create", "stats", "numpy", ok=6)
    assert "already" in host.run("create", "stats", "--conda", "small", ok=6)
    host.run("remove", "stats")
    assert json.loads(host.run("list", "--json"))["environments"] == []
    assert not [path for path in host.paths.kernels.rglob("*stats*") if "packages" not in path.parts]


@pytest.mark.exhaustive
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_all_may_read_it_and_root_alone_may_write(host: Host, channel: str, umask: int) -> None:
    host.run("create", "stats", "--conda", "--channel", channel, "odd", umask=umask)
    kernels = host.paths.kernels
    for path in (kernels, *kernels.rglob("*")):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0), path
        if not path.is_symlink() and not {"packages", "home", "root"} & {*path.relative_to(kernels).parts}:
            assert not found.st_mode & 0o6022, f"{path}: {found.st_mode:o}"
            assert found.st_mode & 0o444 == 0o444, f"{path}: {found.st_mode:o}"
    assert (host.folder("stats") / "share/odd/closed").stat().st_mode & 0o777 == 0o644
    for name in ("packages", "home", "root"):
        assert (kernels / "conda" / name).stat().st_mode & 0o777 == 0o700


def child_of(pid: int) -> int:
    """Return the number of a process's child, 0 if it has none."""
    with contextlib.suppress(OSError):
        for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(word)
    return 0


def kill_when(process: subprocess.Popen[str], there: Path, *, itself: bool) -> str:
    """Kill conda, and its caller too, as soon as it has begun to write; return what was said."""
    wait_for(process, there)
    child = child_of(process.pid)
    assert child, "it was done before it could be killed"
    if itself:
        process.kill()
    os.kill(child, signal.SIGKILL)
    said = "".join(process.communicate(timeout=60))
    wait_until_gone(child)
    return said


def wait_for(process: subprocess.Popen[str], there: Path) -> None:
    deadline = time.monotonic() + 120
    while not there.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()


def wait_until_gone(pid: int) -> None:
    """Wait until a process that was killed has ended; who it is left to may take its time to collect it."""
    deadline = time.monotonic() + 60
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.exhaustive
@pytest.mark.parametrize("itself", [False, True])
def test_killed_while_it_is_made_the_same_again_makes_it(host: Host, channel: str, itself: bool) -> None:
    words = ("create", "stats", "--conda", "--channel", channel, "plain-kernel", "large")
    said = kill_when(host.start(*words), host.folder("stats") / "share", itself=itself)
    assert itself or "failed with status -9" in said
    assert "not finished" in host.kernel("stats")["problem"] and host.kernel("stats")["kernels"] == []
    host.run(*words)
    assert host.kernel("stats")["problem"] == "" and len([*(host.folder("stats") / "share/large").iterdir()]) == LARGE


@pytest.mark.exhaustive
def test_a_conda_whose_caller_was_killed_is_waited_for(host: Host, channel: str) -> None:
    words = ("create", "stats", "--conda", "--channel", channel, "plain-kernel", "large")
    process = host.start(*words)
    wait_for(process, host.folder("stats") / "share")
    left = child_of(process.pid)
    os.kill(left, signal.SIGSTOP)
    try:
        process.kill()
        process.communicate(timeout=60)
        for verb in (words, ("remove", "stats")):
            said = host.run(*verb, ok=6)
            assert f"process {left}" in said and f"kill {left}" in said
    finally:
        os.kill(left, signal.SIGKILL)
    wait_until_gone(left)
    host.run(*words)
    assert host.kernel("stats")["problem"] == ""


@pytest.mark.exhaustive
@pytest.mark.parametrize("itself", [False, True])
def test_killed_while_it_is_changed_the_next_change_makes_it_whole(host: Host, channel: str, itself: bool) -> None:
    host.run("create", "stats", "--conda", "--channel", channel, "plain-kernel", "small=1")
    kill_when(host.start("install", "stats", "large"), host.folder("stats") / "share/large", itself=itself)
    (host.folder("stats") / "of-nobody").touch()
    assert "cut off" in host.kernel("stats")["problem"]
    host.run("install", "stats", "large")
    found = host.kernel("stats")
    assert found["problem"] == "" and {"small 1.0", "large 1.0"} <= {*found["packages"]}
    assert len([*(host.folder("stats") / "share/large").iterdir()]) == LARGE
    assert not (host.folder("stats") / "of-nobody").exists(), "it was made from the beginning"


@pytest.mark.exhaustive
def test_the_settings_of_administrators_hold_and_those_of_the_caller_do_not(channel: str, tmp_path: Path) -> None:
    """conda's own settings, in its installation; those that HOME and CONDARC would name are another's."""
    try:
        own = programs()["conda"].parent.parent
    except RuntimeError as error:
        pytest.skip(str(error))
    prefix = Path(tempfile.mkdtemp(prefix="dtc-", dir="/var/tmp"))
    try:
        copy = prefix / "conda"
        shutil.copytree(own, copy, symlinks=True)
        script = copy / "bin/conda"
        script.write_text(script.read_text().replace(str(own), str(copy)))
        host = Host(prefix, script)
        assert "failed with status 1" in host.run("create", "stats", "--conda", "small", ok=8), "there are no channels"
        (copy / ".condarc").write_text((own / ".condarc").read_text() + f"channels: [{channel}]\n")
        host.run("create", "stats", "--conda", "plain-kernel", "small=1")
        assert "small 1.0" in host.kernel("stats")["packages"]
    finally:
        shutil.rmtree(prefix)


# -- in notebooks


@pytest.fixture(scope="module")
def site(channel: str) -> Iterator[tuple[Notebooks, Host]]:
    if reason := notebooks.why_not():
        pytest.skip(reason)
    try:
        program = programs()["conda"]
    except RuntimeError as error:
        pytest.skip(str(error))
    with Notebooks(Stack(uid_min=47_000, uid_max=47_099, cgroup="diycloud-dt-c"), f"  conda: {program}\n") as running:
        host = Host.__new__(Host)
        host.prefix, host.paths = running.stack.prefix, running.paths
        host.run("create", "stats", "--conda", "--channel", channel, "echo-kernel")
        running.user(USER, "--memory", MEMORY)
        yield running, host


@contextlib.contextmanager
def kernel(site: tuple[Notebooks, Host], name: str) -> Iterator[tuple[Browser, Kernel]]:
    """A kernel of that name in the user's server."""
    running, _ = site
    with running.browser() as browser:
        browser.sign_in(USER, notebooks.PASSWORD)
        browser.open("/jupyter/hub/spawn")
        browser.open(f"/jupyter/user/{USER}/lab")
        base = f"/jupyter/user/{USER}/"
        made = browser.ask("POST", f"{base}api/kernels", {"name": name})
        assert made.status_code == 201, made.text
        talk = Kernel(browser, base, made.json()["id"])
        try:
            yield browser, talk
        finally:
            talk.close()
            browser.ask("DELETE", f"{base}api/kernels/{talk.id}")


def listening(uid: int) -> list[str]:
    """Return what a user's processes listen at over TCP (proc(5), /proc/net/tcp: state 0A)."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [words[1] for words in lines if words[3] == "0A" and int(words[7]) == uid]


@pytest.mark.exhaustive
def test_its_python_runs_as_in_an_activated_environment(site: tuple[Notebooks, Host]) -> None:
    folder = str(site[1].folder("stats"))
    with kernel(site, "stats") as (browser, talk):
        specs = browser.ask("GET", f"/jupyter/user/{USER}/api/kernelspecs").json()["kernelspecs"]
        shown = {name: spec["spec"]["display_name"] for name, spec in specs.items()}
        assert shown["stats"] == "stats (shared)" and shown["stats.echo"] == "Echo (stats, shared)"
        assert not any(spec["spec"]["metadata"]["debugger"] for spec in specs.values())
        assert browser.ask("GET", specs["stats.echo"]["resources"]["logo-svg"]).status_code == 200
        said = talk.run("import os, sys; print(sys.prefix, os.environ['CONDA_PREFIX'], os.environ['ECHO_HOME'])")
        assert said.split() == [folder, folder, f"{folder}/share/echo"]
        said = talk.run("print(os.environ['ECHO_WORD'], os.environ['PATH'].split(':')[0], os.getuid())")
        assert said.split() == ["said", f"{folder}/bin", str(pwd.getpwnam(USER).pw_uid)]
        assert "3\n" in talk.run("import subprocess; subprocess.run(['sh', '-c', 'echo 3']); print(1 + 2)")
        assert "PermissionError" in talk.run("open(sys.prefix + '/bin/mine', 'w')")
        assert listening(pwd.getpwnam(USER).pw_uid) == []


@pytest.mark.exhaustive
def test_a_kernel_of_another_language_is_as_much_the_users_own(site: tuple[Notebooks, Host]) -> None:
    """It is built on IPython's, as many are: without our file its port for subprocesses would be everybody's."""
    with kernel(site, "stats.echo") as (_, talk):
        assert talk.run("hello") == "echo hello"
        words = dict(word.partition("=")[::2] for word in talk.run("environment").split())
        assert words["CONDA_PREFIX"] == str(site[1].folder("stats")) and words["ECHO_WORD"] == "said"
        assert Path(f"/proc/{talk.run('pid')}").stat().st_uid == pwd.getpwnam(USER).pw_uid
        assert listening(pwd.getpwnam(USER).pw_uid) == []


@pytest.mark.exhaustive
def test_memory_that_ends_in_a_kernel_of_another_language_is_told_of(site: tuple[Notebooks, Host]) -> None:
    with kernel(site, "stats.echo") as (_, talk):
        said = talk.run("fill")
        assert "killed because all of your memory" in said, said


# -- whose a program must be


@pytest.fixture
def installation() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="dtc-", dir="/var/tmp"))
    folder.chmod(0o755)
    for part in ("bin", "lib/python3/site-packages/conda", "conda-meta", "pkgs/x", "envs/y"):
        (folder / part).mkdir(parents=True)
    (folder / "lib/python3/site-packages/conda/main.py").write_text("")
    (folder / "bin/python").symlink_to("/bin/sh")
    program = folder / "bin/conda"
    program.write_text(f"#!{folder}/bin/python\n")
    program.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_what_is_roots_alone_is_run(installation: Path) -> None:
    program = installation / "bin/conda"
    assert find_weakness(program) == ""
    assert find_program(Local(), str(program)) == program
    os.chown(installation / "pkgs/x", 1234, 1234)
    (installation / "envs/y").chmod(0o777)
    assert find_weakness(program) == "", "its packages and environments are no part of it"
    (installation / "lib/python3").chmod(0o775)
    assert find_weakness(program) == "", "root's own group"


@pytest.mark.parametrize(
    "part",
    [".", "bin", "bin/conda", "lib", "lib/python3/site-packages/conda/main.py", "conda-meta"],
)
@pytest.mark.parametrize("how", ["owner", "others", "group"])
def test_what_others_could_change_is_not_run_by_root(installation: Path, part: str, how: str) -> None:
    path = installation / part
    if how == "owner":
        os.chown(path, 1234, 0)
    elif how == "others":
        path.chmod(path.stat().st_mode | 0o002)
    else:
        os.chown(path, 0, 1234)
        path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(HostError) as refused:
        find_program(Local(), str(installation / "bin/conda"))
    assert str(path) in refused.value.message and "not run as root" in refused.value.message
    assert "chown -R root:root" in refused.value.hint


def test_links_are_followed_to_whose_they_are(installation: Path, tmp_path: Path) -> None:
    outside = Path(tempfile.mkdtemp(prefix="dtc-", dir="/var/tmp"))
    try:
        outside.chmod(0o755)
        link = outside / "conda"
        link.symlink_to(installation / "bin/conda")
        assert find_weakness(link) == ""
        (outside / "module.py").write_text("")
        (installation / "lib/module.py").symlink_to(outside / "module.py")
        assert find_weakness(link) == ""
        os.chown(outside / "module.py", 1234, 1234)
        assert "module.py belongs to number 1234" in find_weakness(link)
        os.chown(outside / "module.py", 0, 0)
        os.chown(outside, 1234, 1234)
        assert f"{outside} belongs to number 1234" in find_weakness(link)
        os.chown(outside, 0, 0)
        os.lchown(link, 1234, 1234)
        assert f"{link} belongs to number 1234" in find_weakness(link)
    finally:
        shutil.rmtree(outside)


def test_an_interpreter_of_others_is_not_run_by_root(installation: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="dtc-", dir="/var/tmp"))
    try:
        (folder / "python").write_bytes(b"")
        os.chown(folder / "python", 1234, 1234)
        (installation / "bin/conda").write_text(f"#!{folder}/python -I\n")
        assert "belongs to number" in find_weakness(installation / "bin/conda")
    finally:
        shutil.rmtree(folder)


def test_an_access_control_list_counts(installation: Path) -> None:
    """User 1234 may write: what the list lets anybody do shows as what the group may (acl(5))."""
    main = installation / "lib/python3/site-packages/conda/main.py"
    entries = [(0x01, 6, -1), (0x02, 6, 1234), (0x04, 4, -1), (0x10, 6, -1), (0x20, 4, -1)]
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(main, "system.posix_acl_access", packed)
    except OSError as error:
        pytest.skip(f"the file system keeps no access control lists: {error.strerror}")
    assert main.stat().st_mode & 0o777 == 0o664 and main.stat().st_gid == 0
    assert "may be written to by others" in find_weakness(installation / "bin/conda")


@pytest.mark.parametrize("kind", ["folder", "plain file", "nothing", "loop"])
def test_what_is_no_program(installation: Path, kind: str) -> None:
    path = installation / "bin/other"
    if kind == "folder":
        path.mkdir()
    elif kind == "plain file":
        path.write_text("")
    elif kind == "loop":
        path.symlink_to(path)
    with pytest.raises(HostError):
        find_weakness(path)
