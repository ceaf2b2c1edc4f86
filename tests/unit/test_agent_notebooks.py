"""Notebooks in the agent: who may ask, for whom a server is started and with what."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import msgspec
import pytest

from diycloud.agent.framing import MAX_FRAME, Reply, Request, pack
from diycloud.agent.handlers import TABLE, Kind, handler_for
from diycloud.agent.notebook_start import Person, check_person, choose_profile, make_bounds, make_request
from diycloud.agent.notebooks import Notebooks
from diycloud.agent.protocol import (
    MAX_NOTEBOOKS,
    EndNotebooks,
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
from diycloud.errors import Conflict, DiyCloudError, InvalidInput, PermissionDenied, TooManyRequests, Unsupported
from diycloud.host.notebooks import LOG_LINES, LOG_WIDTH, Places, ServerKey
from diycloud.host.parts import Bounds
from diycloud.host.slices import Limits
from diycloud.system.fake import Fake
from diycloud.units import Bytes, Cores
from tests.unit.test_slices import v1

MANAGED = "/var/lib/diycloud/agent/managed"
PASSWD = "root:x:0:0:root:/root:/bin/bash\nalice:x:20000:20000:Alice:/home/alice:/bin/bash\n"
GROUP = "root:x:0:\nalice:x:20000:\nteam:x:900:alice\n"
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
    assert allowed[Role.SERVER] >= {StopNotebook, EndNotebooks, ReadNotebooks}
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
    for message in (StartNotebook("alice"), StopNotebook("alice"), EndNotebooks("alice"), ReadNotebooks()):
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
        "cpu": f"/sys/fs/cgroup/cpuacct/{below}/notebook-a/cpuacct.usage", "cpu_limit": 0.5,
        "cpu_quota": f"/sys/fs/cgroup/cpu/{below}/notebook-a/cpu.cfs_quota_us",
    }  # fmt: skip
    assert asked["kills"] == {"file": f"/sys/fs/cgroup/memory/{below}/notebook-a/memory.oom_control", "key": "oom_kill"}
    assert asked["templates"] == ["/srv/more"]
    assert json.loads(json.dumps(asked))["groups_of_processes"] == [
        *(f"/sys/fs/cgroup/{c}/{below}/notebook-a" for c in ("cpuacct", "cpu", "memory")),
        f"/sys/fs/cgroup/pids/{below}/main/notebook-a",
    ]


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
