"""Notebooks in the agent: who may ask, for whom a server is started and with what, where its cgroup is, what is told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.framing import MAX_FRAME, Reply, Request, pack
from diycloud.agent.handlers import TABLE, Kind, handler_for
from diycloud.agent.notebook_start import Person, check_person, choose_profile, make_bounds, make_request
from diycloud.agent.notebooks import Notebooks
from diycloud.agent.protocol import (
    MAX_NOTEBOOKS,
    Message,
    Notebook,
    Ping,
    ReadNotebooks,
    StartNotebook,
    StopNotebook,
)
from diycloud.agent.registry import Registry
from diycloud.agent.server import Server
from diycloud.agent.state import Agent, Caller, Role, Session
from diycloud.config import AgentSettings, Paths
from diycloud.config_notebooks import NotebookSettings, Profile
from diycloud.errors import (
    Conflict,
    DiyCloudError,
    HostError,
    InvalidInput,
    PermissionDenied,
    TooManyRequests,
    Unavailable,
    Unsupported,
)
from diycloud.host import notebooks as host
from diycloud.host.cgroup import Tree
from diycloud.host.notebooks import LOG_LINES, LOG_WIDTH, Places, Record, ServerKey, bind_socket, launching
from diycloud.host.parts import Bounds
from diycloud.host.slices import Limits
from diycloud.host.systemd_slices import SystemdSlices
from diycloud.system import Local, Result
from diycloud.system.contract import Owner
from diycloud.system.fake import Fake
from diycloud.units import Bytes, Cores
from tests.unit.test_slices import v1, v2

MANAGED = "/var/lib/diycloud/agent/managed"
PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:20000:20000:Alice:/home/alice:/bin/bash\n"
GROUP = "root:x:0:\nalice:x:20000:\nteam:x:900:alice\n"
NO_SHADOW = "alice:!:1:0:9:7:::"
LIMITS = Limits(Cores(0.5), Bytes(64 << 20), 50)
SETTINGS = NotebookSettings(
    hub_user="hub",
    profiles={
        "small": Profile(cpu=0.25, memory="32M"),
        "huge": Profile(cpu=64, memory="1T"),
        "half": Profile(memory="32M"),
        "boxed": Profile(kind="docker", image="lab"),
    },
)
ROOT, SERVER, HUB = (Caller(uid, 1, role) for uid, role in ((0, Role.ROOT), (990, Role.SERVER), (991, Role.HUB)))
NOW = 1_700_000_000.0


def make(
    *,
    passwd: str = PASSWD,
    group: str = GROUP,
    shadow: str = "alice:!:1:0:9:7:::",
    state: str = "active",
    sudoers: str = "",
) -> Agent:
    fake = Fake(
        {
            "/etc/passwd": passwd, "/etc/group": group, "/etc/shadow": f"{shadow}\n", "/etc/sudoers": sudoers,
            "/proc/meminfo": "MemTotal: 8000000 kB\n", "/var/lib/diycloud/agent/started": "",
            MANAGED: f"diycloud-managed 1 20001\nalice 20000 3 {state} 50000 67108864 50\n",
        }
    )  # fmt: skip
    settings = AgentSettings(allowed_groups=("team",))
    registry = Registry(fake, Path(MANAGED), uid_min=20_000, uid_max=20_010)
    notebooks = Notebooks(fake, None, SETTINGS, Paths(), nginx_gid=33)
    return Agent(fake, settings, registry, None, notebooks=notebooks, clock=lambda: NOW)


# -- who may ask


def test_each_caller_has_its_own_table() -> None:
    allowed = {
        role: {kind for kind, handler in TABLE.items() if role in handler.callers} for role in Role
    }  # fmt: skip
    assert allowed[Role.HUB] == {Ping, StartNotebook, StopNotebook, ReadNotebooks}
    assert allowed[Role.SERVER] >= {StopNotebook, ReadNotebooks}
    assert StartNotebook not in allowed[Role.SERVER]
    assert allowed[Role.ROOT] == set(TABLE)
    with pytest.raises(PermissionDenied, match="server may not ask for StartNotebook"):
        handler_for(StartNotebook("alice"), SERVER)
    assert TABLE[ReadNotebooks].kind is Kind.READ, "starts under way keep nobody from reading"


def test_the_hub_is_known_by_its_account_also_if_that_comes_later() -> None:
    agent = make()
    assert isinstance(agent.system, Fake)
    server = Server(agent, server_uid=990)
    with pytest.raises(PermissionDenied, match="root, the server and the notebooks' hub only"):
        server._identify(991, 1)
    agent.system.write("/etc/passwd", f"{PASSWD}hub:x:991:991::/:/usr/sbin/nologin\n")
    with pytest.raises(PermissionDenied):
        server._identify(991, 1)  # a crowd of strangers does not have the file read all the time
    server._looked_up = float("-inf")
    assert server._identify(991, 5) == Caller(991, 5, Role.HUB)
    agent.system.remove("/etc/passwd")
    assert server._identify(991, 1).role is Role.HUB, "who is known costs no look"
    assert server._identify(990, 1).role is Role.SERVER


def test_no_user_of_the_platform_can_be_the_hub() -> None:
    agent = make()
    assert isinstance(agent.system, Fake)
    agent.system.write("/etc/passwd", f"{PASSWD}hub:x:20005:20005::/:/bin/sh\n")
    with pytest.raises(PermissionDenied):
        Server(agent, server_uid=990)._identify(20_005, 1)


@pytest.mark.parametrize(
    "environment",
    [{"PATH": "/tmp"}, {"LD_PRELOAD": "x"}, {"PYTHONPATH": "x"}, {"JUPYTERHUB_x": "x"}, {"JUPYTERHUB_": "x"},
     {"JUPYTERHUB_A\n": "x"}, {"JUPYTERHUB_A": "x\ny"}, {"JUPYTERHUB_A": "x\0"}, {"JUPYTER_PATH": "x"},
     {f"JUPYTERHUB_{n * 'A'}": "x" for n in range(1, 66)}],
)  # fmt: skip
def test_the_hub_sets_its_own_variables_only(environment: dict[str, str]) -> None:
    frame = pack(Request(1, StartNotebook("alice", environment=environment)))[4:]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(frame, type=Request)


@pytest.mark.parametrize(
    "message",
    [StartNotebook("alice", "A"), StartNotebook("alice", "a/b"), StartNotebook("alice", "x" * 31), StartNotebook("../a"),
     StartNotebook("alice", "a\n"), StartNotebook("alice", profile="-x"), StopNotebook("alice", "."), StopNotebook(""),
     ReadNotebooks("a/b"), ReadNotebooks(after="a/b"), ReadNotebooks(server="+")],
    ids=repr,
)  # fmt: skip
def test_names_that_are_none_are_refused(message: Message) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(pack(Request(1, message))[4:], type=Request)  # type: ignore[arg-type]


# -- for whom


def test_a_person_is_as_the_host_has_it() -> None:
    person = check_person(make(), HUB, "alice")
    assert person == Person("alice", 20_000, (20_000, 900), "/home/alice", "/bin/bash", LIMITS)
    assert person.gid == 20_000


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"state": "locked"}, Conflict, "locked or expired"),
        ({"shadow": "alice:!:1:0:9:7::1:"}, Conflict, "locked or expired"),
        ({"shadow": "alice:!$y$x:1:0:9:7:::"}, Conflict, "locked or expired"),
        ({"shadow": f"alice:x:1:0:9:7::{int(NOW / 86_400)}:"}, Conflict, "locked or expired"),
        ({"passwd": PASSWD.splitlines()[0]}, Conflict, "missing on the host"),
        ({"passwd": PASSWD.replace("20000:20000", "20003:20000")}, Conflict, "number 20003"),
        ({"group": GROUP + "docker:x:5:alice\n"}, PermissionDenied, "docker"),
        ({"group": GROUP + "other:x:901:alice\n"}, PermissionDenied, "other"),
        ({"sudoers": "alice ALL=(ALL) ALL\n"}, PermissionDenied, "administrator"),
    ],
    ids=str,
)
def test_who_may_have_none(changes: dict[str, str], error: type[DiyCloudError], words: str) -> None:
    agent = make(**changes)
    before = dict(agent.system.files)  # type: ignore[attr-defined]
    with pytest.raises(error, match=words):
        check_person(agent, HUB, "alice")
    with pytest.raises(error, match=words):
        TABLE[StartNotebook].act(agent, Session(HUB), StartNotebook("alice"))
    assert agent.system.files == before  # type: ignore[attr-defined]
    assert agent.system.ran == []  # type: ignore[attr-defined]


def test_an_account_that_expires_tomorrow_may_and_strangers_never() -> None:
    agent = make(shadow=f"alice:x:1:0:9:7::{int(NOW / 86_400) + 1}:")
    assert check_person(agent, HUB, "alice").name == "alice"
    for name in ("root", "mallory"):
        for caller in (HUB, ROOT):
            with pytest.raises(PermissionDenied):
                check_person(agent, caller, name)


@pytest.mark.parametrize(("at_once", "own"), [(1, 1), (2, 1), (3, 2), (10, 2), (64, 2)])
def test_one_users_starts_leave_places_to_others(at_once: int, own: int) -> None:
    """A server may be made to hang while it starts; one user's then hold so many places, and never all."""
    settings = msgspec.structs.replace(SETTINGS, at_once=at_once)
    notebooks = Notebooks(Fake({}), None, settings, Paths(), nginx_gid=33)
    with contextlib.ExitStack() as held:
        for number in range(own):
            held.enter_context(notebooks._starting(ServerKey("alice", f"s{number}")))
        with (
            pytest.raises(TooManyRequests, match=f"{own} notebook servers of alice are starting") as caught,
            notebooks._starting(ServerKey("alice", "more")),
        ):
            pass
        assert "They come first" in caught.value.hint and caught.value.retry_after > 0
        if at_once > 1:
            for number in range(at_once - own):
                held.enter_context(notebooks._starting(ServerKey(f"bob{number}", "")))
        with pytest.raises(TooManyRequests, match=f"{at_once} notebook"), notebooks._starting(ServerKey("carol", "")):
            pass
    with notebooks._starting(ServerKey("alice", "more")):
        pass


def test_an_agent_without_notebooks_says_so() -> None:
    agent = make()
    agent.notebooks = None
    for message in (StartNotebook("alice"), StopNotebook("alice"), ReadNotebooks()):
        with pytest.raises(Unsupported):
            TABLE[type(message)].act(agent, Session(ROOT), message)


# -- with what


def test_profiles() -> None:
    assert choose_profile(NotebookSettings(), "") == ("", Profile())
    assert choose_profile(SETTINGS, "")[0] == "small", "the first"
    assert choose_profile(SETTINGS, "huge")[1].cpu == 64
    with pytest.raises(InvalidInput, match="small, huge"):
        choose_profile(SETTINGS, "other")
    with pytest.raises(InvalidInput, match="none"):
        choose_profile(NotebookSettings(), "small")
    with pytest.raises(Unsupported, match="container"):
        choose_profile(SETTINGS, "boxed")


def test_a_profile_in_containers_is_nobodys_default() -> None:
    boxed, small = Profile(kind="docker", image="lab"), Profile(cpu=0.25)
    assert choose_profile(NotebookSettings(profiles={"boxed": boxed, "small": small}), "") == ("small", small)
    assert choose_profile(NotebookSettings(profiles={"boxed": boxed}), "") == ("", Profile())


@pytest.mark.parametrize(
    ("profile", "bounds"),
    [("small", (0.25, 32 << 20, 50)), ("huge", (64, 1 << 40, 50)), ("half", (0, 32 << 20, 50))],
)  # fmt: skip
def test_bounds_are_the_profiles_whatever_the_users_limits_are_now(
    profile: str, bounds: tuple[float, int, int]
) -> None:
    """The slice's hold besides, and may grow."""
    assert tuple(make_bounds(SETTINGS.profiles[profile], LIMITS)) == bounds


def test_what_the_launcher_is_told() -> None:
    fake, slices = v1()
    fake.files.update(Fake({"/etc/default/locale": 'LANG="de_DE.UTF-8"\n', "/srv/more/x": ""}).files)
    part = slices.part("alice", 1, "notebook-a")
    person = Person("alice", 20_000, (20_000, 900), "/home/alice", "/bin/zsh", LIMITS)
    hub = {"JUPYTERHUB_API_TOKEN": "secret"}
    asked = make_request(
        fake, Paths(), Places(fake, Paths()), ServerKey("alice", "a"), person, hub,
        profile="half", part=part, bounds=Bounds(Cores(0), Bytes(32 << 20), 50), templates="/srv/more",
    )  # fmt: skip
    environment = asked["environment"]
    assert environment == {
        "JUPYTERHUB_API_TOKEN": "secret", "HOME": "/home/alice", "USER": "alice", "LOGNAME": "alice",
        "SHELL": "/bin/zsh", "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
        "LANG": "de_DE.UTF-8", "JUPYTER_PATH": "/opt/diycloud/jupyter/shared/share/jupyter",
    }  # fmt: skip
    assert {key: asked[key] for key in ("uid", "gid", "groups", "tmp", "socket", "record", "log", "runtime")} == {
        "uid": 20_000, "gid": 20_000, "groups": (20_000, 900), "tmp": "/var/lib/diycloud/notebooks/tmp/20000",
        "socket": "/run/diycloud/notebooks/sockets/alice+a.sock", "log": "/run/diycloud/notebooks/logs/alice+a.log",
        "record": "/run/diycloud/notebooks/records/alice+a.json", "runtime": "/run/diycloud/notebooks/runtime/alice+a",
    }  # fmt: skip
    below = "user/alice"
    assert asked["slice"] == {
        "memory": f"/sys/fs/cgroup/memory/{below}/notebook-a/memory.usage_in_bytes", "memory_limit": 32 << 20,
        "cpu": f"/sys/fs/cgroup/cpuacct/{below}/cpuacct.usage", "cpu_limit": 0.5,
    }  # fmt: skip
    assert asked["kills"] == {"file": f"/sys/fs/cgroup/memory/{below}/notebook-a/memory.oom_control", "key": "oom_kill"}
    assert asked["templates"] == ["/srv/more"]
    assert json.loads(json.dumps(asked))["groups_of_processes"] == [
        *(f"/sys/fs/cgroup/{c}/{below}/notebook-a" for c in ("cpuacct", "cpu", "memory")),
        f"/sys/fs/cgroup/pids/{below}/main/notebook-a",
    ]


# -- where


def test_a_part_on_v1_is_bounded_entered_and_follows_the_slices_limits() -> None:
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    part = slices.part("alice", 1, "notebook")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    at = {c: f"/sys/fs/cgroup/{c}/user/alice/notebook" for c in ("cpu", "cpuacct", "memory")}
    at["pids"] = "/sys/fs/cgroup/pids/user/alice/main/notebook"
    assert [fake.read(f"{folder}/cgroup.procs") for folder in at.values()] == ["77"] * 4
    assert fake.read(f"{at['memory']}/memory.limit_in_bytes") == fake.read(
        f"{at['memory']}/memory.memsw.limit_in_bytes"
    )
    assert fake.read(f"{at['memory']}/memory.limit_in_bytes") == str(32 << 20)
    assert (fake.read(f"{at['cpu']}/cpu.cfs_quota_us"), fake.read(f"{at['pids']}/pids.max")) == ("25000", "max")
    assert part.processes() == [77]
    slices.ensure("alice", 1, Limits(Cores(0.1), Bytes(64 << 20), 20))
    assert fake.read(f"{at['cpu']}/cpu.cfs_quota_us") == "10000"
    other = slices.part("alice", 1, "notebook-b")
    other.hold(78, Bounds(Cores(0), Bytes(0), 50))
    assert fake.read("/sys/fs/cgroup/memory/user/alice/notebook-b/memory.limit_in_bytes") == "9223372036854771712"
    assert fake.read("/sys/fs/cgroup/cpu/user/alice/notebook-b/cpu.cfs_quota_us") == "-1"


def test_on_v1_a_part_follows_the_slices_cpu_up_and_down_and_its_own_bound_stays() -> None:
    """v1 alone refuses a part more than its slice has, so what a small slice took from it must be given back."""
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    bounded, free = slices.part("alice", 1, "notebook"), slices.part("alice", 1, "notebook-b")
    bounded.hold(77, Bounds(Cores(2.0), Bytes(1 << 40), 50))
    free.hold(78, Bounds(Cores(0), Bytes(0), 50))

    def quotas() -> list[str | None]:
        return [
            fake.read(f"/sys/fs/cgroup/cpu/user/alice/{part}cpu.cfs_quota_us")
            for part in ("", "notebook/", "notebook-b/")
        ]

    assert quotas() == ["50000", "50000", "-1"], "its two cores are more than there is"
    for cpu, now in ((1.0, ["100000", "100000", "-1"]), (4.0, ["400000", "200000", "-1"]), (0.2, ["20000", "20000", "-1"]),
                     (3.0, ["300000", "200000", "-1"])):  # fmt: skip
        slices.ensure("alice", 1, LIMITS._replace(cpu=Cores(cpu)))
        bounded.follow(Cores(2.0)), free.follow(Cores(0))
        assert quotas() == now
        assert not bounded.follow(Cores(2.0)), "nothing is written twice"
    assert fake.read("/sys/fs/cgroup/memory/user/alice/notebook/memory.limit_in_bytes") == str(1 << 40)
    assert not slices.part("alice", 1, "notebook-none").follow(Cores(1.0)), "one that is not there is not made"
    assert not fake.exists("/sys/fs/cgroup/cpu/user/alice/notebook-none")


def test_a_slices_cpu_is_lowered_though_a_part_was_just_given_more() -> None:
    """A server that starts may get its share of the limit before this one, between two steps: the kernel then refuses."""
    fake, slices = v1()
    slices.ensure("alice", 1, LIMITS)
    slices.part("alice", 1, "notebook").hold(77, Bounds(Cores(0.4), Bytes(0), 50))
    quota = "/sys/fs/cgroup/cpu/user/alice/cpu.cfs_quota_us"
    write, refused = fake.set_value, list[str]()

    def refuse_once(path: str, value: str) -> None:
        if path == quota and not refused:
            refused.append(value)
            write("/sys/fs/cgroup/cpu/user/alice/notebook/cpu.cfs_quota_us", "40000")
            raise HostError("Invalid argument")
        write(path, value)

    fake.set_value = refuse_once  # type: ignore[method-assign, assignment]
    assert slices.ensure("alice", 1, LIMITS._replace(cpu=Cores(0.1)))
    assert refused == ["10000"]
    assert [fake.read(quota), fake.read("/sys/fs/cgroup/cpu/user/alice/notebook/cpu.cfs_quota_us")] == ["10000"] * 2


def test_a_part_on_v2_is_a_leaf_beside_main() -> None:
    fake, slices = v2()
    slices.ensure("alice", 1, LIMITS)
    part = slices.part("alice", 1, "notebook")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    at = "/sys/fs/cgroup/user/alice/notebook"
    assert part.folders == [at]
    assert part.kills == (f"{at}/memory.events", "oom_kill")
    assert [fake.read(f"{at}/{file}") for file in ("cgroup.procs", "memory.max", "cpu.max", "pids.max")] == [
        "77", str(32 << 20), "25000 100000", "50",
    ]  # fmt: skip
    assert part.usage_files(whole=True) == (
        "/sys/fs/cgroup/user/alice/memory.current", "/sys/fs/cgroup/user/alice/cpu.stat",
    )  # fmt: skip


def test_with_systemd_a_scope_adopts_the_shim_and_no_two_people_share_one() -> None:
    folder = "/sys/fs/cgroup/user.slice/user-20000.slice/diycloud-notebook-20000-b.scope"
    ran: list[Sequence[str]] = []

    def start(argv: Sequence[str], _: str | None) -> Result:
        ran.append(argv)
        if "OOMPolicy" in argv:  # systemd before 253
            return Result(1, "", "Cannot set property OOMPolicy, or unknown property.")
        fake.files.update(Fake({f"{folder}/cgroup.procs": "77\n"}).files)
        return Result(0, "", "")

    class Systemd(Fake):
        def _execute(self, argv: Sequence[str], input: str | None) -> Result:
            return start(argv, input)

    fake = Systemd({"/proc/77/stat": ""})
    slices = SystemdSlices(fake, Tree("/sys/fs/cgroup", {}))
    part = slices.part("alice", 20_000, "notebook-b")
    part.hold(77, Bounds(Cores(0.25), Bytes(32 << 20), 50))
    line = " ".join(ran[-1])
    assert "StartTransientUnit ssa(sv)a(sa(sv)) diycloud-notebook-20000-b.scope fail" in line
    assert "PIDs au 1 77 Slice s user-20000.slice TasksMax t 50" in line
    assert "CPUQuotaPerSecUSec t 250000" in line
    assert f"MemoryMax t {32 << 20}" in line
    count = int(ran[-1][ran[-1].index("fail") + 1])
    assert count == sum(word in {"au", "s", "t", "b"} for word in ran[-1]), "as many properties as it says"
    assert part.folders == [folder]
    first, second = slices.part("a-b", 20_001, "notebook"), slices.part("a", 20_002, "notebook-b")
    assert first.folders != second.folders
    with pytest.raises(HostError, match="did not take the process 78"):
        part.hold(78, Bounds(Cores(0), Bytes(0), 50))


def test_no_two_servers_share_a_place() -> None:
    keys = [ServerKey("a", ""), ServerKey("a", "b"), ServerKey("a-b", ""), ServerKey("ab", ""), ServerKey("a", "b-c")]
    assert len({key.stem for key in keys}) == len(keys)
    assert [ServerKey.of_stem(key.stem) for key in keys] == keys


# -- what is told


def test_the_longest_answers_fit_a_frame() -> None:
    place = "/run/diycloud/notebooks/sockets/" + "n" * 32 + "+" + "s" * 30 + ".sock"
    one = Notebook(
        "n" * 32, "s" * 30, "running", "p" * 30, 4_194_304, NOW + 0.1, NOW + 0.2, -127, True, 1 << 31, 1 << 60, 1 << 53,
        4_000_000, place,
    )  # fmt: skip
    everybodys = msgspec.msgpack.encode([one] * MAX_NOTEBOOKS)
    assert len(pack(Reply(1, msgspec.Raw(everybodys)))) <= MAX_FRAME
    with_log = msgspec.structs.replace(one, log=("\U0001f600" * LOG_WIDTH,) * LOG_LINES)
    assert len(pack(Reply(1, msgspec.Raw(msgspec.msgpack.encode(with_log))))) <= MAX_FRAME


def test_records_and_logs_are_read_as_what_others_wrote(tmp_path: Path) -> None:
    places = Places(Local(), Paths(str(tmp_path)))
    places.ensure()
    key = ServerKey("alice", "")
    assert places.read_record(key) is None
    for text in ("", "[]", "{", '{"name": 5}', '{"server": ""}', '{"name": "alice", "shim": "1"}'):
        places.record(key).write_text(text)
        assert places.read_record(key) is None
    places.record(key).write_text('{"name": "alice", "shim": 5, "shim_start": 9, "more": 1}')
    assert places.read_record(key) == Record("alice", shim=5, shim_start=9)
    places.log(key).write_bytes(b"old\n" * 100 + b"\x1b[2Jfine\x07 \xff\n" + b"x" * 999)
    lines = places.read_log(key)
    assert (len(lines), len(lines[-1])) == (LOG_LINES, LOG_WIDTH)
    assert lines[-2].startswith("[2Jfine")
    assert all(c.isprintable() for c in lines[-2])


def test_a_pid_is_not_taken_for_another_process() -> None:
    me, start = os.getpid(), host.start_of(Local(), os.getpid())
    assert start > 0
    assert host.is_looked_after(Local(), Record("a", shim=me, shim_start=start))
    for record in (Record("a"), Record("a", shim=me, shim_start=start + 1), Record("a", shim=2**30, shim_start=start)):
        assert not host.is_looked_after(Local(), record)
    assert host.is_child(Local(), me, os.getppid())
    assert not host.is_child(Local(), me, 1 if os.getppid() != 1 else 2)


def test_without_cgroups_all_that_a_shim_started_is_found_and_ended() -> None:
    read, write = os.pipe()
    shim = os.fork()
    if shim == 0:  # a child and a grandchild in a session of its own
        for _ in range(2):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.setsid()
                os.write(write, b"x")
                time.sleep(100)
                os._exit(0)
        time.sleep(100)
        os._exit(0)
    os.close(write)
    while len(told := os.read(read, 1)) and len(below := host.descendants(Local(), shim)) < 4:
        assert told == b"x"
    host.kill_tree(Local(), shim)
    os.waitpid(shim, 0)
    os.close(read)
    deadline = time.monotonic() + 20
    while any(host.start_of(Local(), pid) for pid in below):  # the machine's init collects them when it comes to it
        assert time.monotonic() < deadline
        time.sleep(0.02)


# -- the launcher


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with bind_socket(tmp_path / "s.sock", Owner(os.getuid(), os.getgid())) as found:
        yield found


def test_a_socket_is_the_users_and_replaces_one_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    path.write_text("left over")
    with bind_socket(path, Owner(os.getuid(), os.getgid())), socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
    with pytest.raises(HostError, match="Cannot listen"):
        bind_socket(tmp_path / "none" / "a.sock", Owner(0, 0))


def conversation(tmp_path: Path, listener: socket.socket, answers: list[bytes], *, seconds: float = 5) -> host.Answer:
    """Talk with a launcher that says these things, each after it heard a line."""
    path = tmp_path / "l.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()

        def serve() -> None:
            line, _ = door.accept()
            with line:
                data, descriptors, _, _ = socket.recv_fds(line, 65_536, 4)
                assert json.loads(data) == {"name": "alice"}
                assert len(descriptors) == 1
                os.close(descriptors[0])
                for number, answer in enumerate(answers):
                    if number == 1:
                        assert json.loads(line.recv(100)) == {"go": True}
                    line.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with launching(path) as launch:
                assert launch.ask({"name": "alice"}, listener) == 5
                launch.go()
                return launch.wait(seconds, lambda: None)
        finally:
            thread.join()


def test_a_server_that_answers_and_one_that_fails(tmp_path: Path, listener: socket.socket) -> None:
    ready = [b'{"pid": 5}\n', b'{"ready": true, "pid": 6}\n']
    assert conversation(tmp_path, listener, ready) == host.Answer(6)


def test_a_server_that_fails_says_why(tmp_path: Path, listener: socket.socket) -> None:
    failed = [b'{"pid"', b": 5}\n", b'{"failed": "It burnt.", "log": ["a", 5]}\n']
    failed = [failed[0] + failed[1], failed[2]]
    assert conversation(tmp_path, listener, failed) == host.Answer(0, "It burnt.", ("a", "5"))


@pytest.mark.parametrize(
    ("answers", "words"),
    [([], "broke off"), ([b'{"failed": "no room"}\n'], "refuses: no room"), ([b"5\n"], "names no process"),
     ([b"\xff\n"], "broke off"), ([b'{"pid": 5}\n', b""], "broke off")],
)  # fmt: skip
def test_a_launcher_that_is_not_up_to_it(
    tmp_path: Path, listener: socket.socket, answers: list[bytes], words: str
) -> None:
    with pytest.raises(Unavailable, match=words):
        conversation(tmp_path, listener, answers)


def test_no_launcher_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="diycloud up"), launching(tmp_path / "none.sock"):
        pass


def test_a_launcher_that_is_silent_is_waited_for_no_longer_than_asked(tmp_path: Path, listener: socket.socket) -> None:
    path = tmp_path / "l.sock"
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()
        with launching(path) as launch:
            began = time.monotonic()
            with pytest.raises(Unavailable, match="in time"):
                launch.wait(0.3, lambda: None)
            assert time.monotonic() - began < 2
            with pytest.raises(Conflict):  # what looks in the meantime ends the wait
                launch.wait(10, lambda: (_ for _ in ()).throw(Conflict("enough")))  # type: ignore[arg-type]
