"""Service descriptions as systemd units and as supervisord programs."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import msgspec
import pytest

from diycloud.distro.detect import Init, detect
from diycloud.distro.services import Folder, Hardening, Restart, Service, service_manager
from diycloud.distro.supervisor import Supervisor, _is_of, render_program
from diycloud.distro.systemd import Systemd, render_tmpfiles, render_unit
from diycloud.errors import HostError, InvalidInput, Unsupported
from diycloud.system import Result
from diycloud.system.fake import Fake

SERVER = Service(
    name="diycloud-server",
    description="DIY Cloud: REST and portal, 100 % of it",
    command=("/opt/diycloud/venv/bin/python", "-m", "diycloud.web.main"),
    user="daemon",
    group="daemon",
    environment={"A": "plain", "B": 'two words, a "quote" and 5%'},
    hardening=Hardening.STRICT,
    folders=(Folder("/run/diycloud/server", "daemon", "www-data", 0o2750),),
    writable=("/var/lib/diycloud/server",),
    after=("diycloud-agent", "network.target"),
    wants=("diycloud-agent",),
)
AGENT = Service(
    name="diycloud-agent",
    description="DIY Cloud: agent",
    command=("/usr/bin/python3", "-c", "print($x)"),
    hardening=Hardening.HOST,
    restart=Restart.ON_FAILURE,
    reload_signal="HUP",
    leaves_children=True,
)


def unit(service: Service) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in render_unit(service).splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_unit_of_the_strict_kind():
    found = unit(SERVER)
    assert found["Description"] == ["DIY Cloud: REST and portal, 100 %% of it"]
    assert found["ExecStart"] == ["/opt/diycloud/venv/bin/python -m diycloud.web.main"]
    assert found["Environment"] == ["A=plain", '"B=two words, a \\"quote\\" and 5%%"']
    assert found["After"] == ["diycloud-agent.service network.target"]
    assert (found["User"], found["Group"], found["UMask"]) == (["daemon"], ["daemon"], ["0077"])
    assert found["CapabilityBoundingSet"] == [""]
    assert found["ReadWritePaths"] == ["/var/lib/diycloud/server"]
    assert found["KillMode"] == ["control-group"]


def test_unit_of_the_host_kind_keeps_mounts_and_network():
    found = unit(AGENT)
    assert found["RestrictAddressFamilies"] == ["AF_UNIX AF_NETLINK"]
    assert found["IPAddressDeny"] == ["any"]
    assert found["KillMode"] == ["process"]
    assert found["ExecStart"] == ['/usr/bin/python3 -c "print($$x)"']
    assert found["ExecReload"] == ["/bin/kill -s HUP $MAINPID"]
    assert found["Restart"] == ["on-failure"]
    # Each of these gives the service mounts or a network of its own (systemd.exec(5)).
    own_namespace = {"PrivateTmp", "PrivateDevices", "PrivateNetwork", "ProtectSystem", "ProtectHome", "ReadWritePaths"}
    assert not own_namespace & found.keys()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("service", [SERVER, AGENT], ids=lambda service: service.name)
def test_systemd_accepts_the_unit(tmp_path, service):
    known = msgspec.structs.replace(service, command=("/bin/true", *service.command[1:]), after=(), wants=())
    path = tmp_path / f"{service.name}.service"
    path.write_text(render_unit(known))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
    assert [line for line in done.stderr.splitlines() if service.name in line] == []
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd-analyze on this machine")
def test_exposure_of_the_strict_kind_is_at_most_1_5(tmp_path):
    path = tmp_path / "diycloud-server.service"
    path.write_text(render_unit(SERVER))
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", path]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_tmpfiles_make_the_folders_below_run():
    assert render_tmpfiles(SERVER).splitlines()[-1] == "d /run/diycloud/server 2750 daemon www-data -"


@pytest.mark.parametrize(
    "fields",
    [
        {"description": "two\nlines"},
        {"command": ("/bin/echo", "a\nUser=root")},
        {"environment": {"A": "x\nUser=root"}},
        {"environment": {"A B": "x"}},
        {"environment": {"A=": "x"}},
        {"command": ("echo",)},
        {"command": ()},
        {"user": "root\n"},
    ],
)
def test_what_would_add_lines_is_refused(fields):
    bad = msgspec.structs.replace(SERVER, **fields)
    with pytest.raises(InvalidInput):
        render_unit(bad)
    with pytest.raises(InvalidInput):
        render_program(bad, logs=Path("/var/log"), autostart=True)


@pytest.mark.parametrize("name", ["A", "a/b", "a.service", "a b", "", "a\n"])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises((InvalidInput, msgspec.ValidationError)):
        render_unit(msgspec.structs.replace(SERVER, name=name))


def program(service: Service) -> dict[str, str]:
    """Read a program as supervisord's own parser does."""
    parser = RawConfigParser(inline_comment_prefixes=(";", "#"), strict=False)
    parser.read_string(render_program(service, logs=Path("/var/log/diycloud"), autostart=True))
    return dict(parser[f"program:{service.name}"])


def test_program_of_the_strict_kind_loses_every_capability():
    argv = shlex.split(program(SERVER)["command"])
    assert argv[: argv.index("--")] == [
        "/usr/bin/setpriv",
        "--reuid=daemon",
        "--regid=daemon",
        "--init-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ]
    assert argv[argv.index("--") + 1 :] == list(SERVER.command)


def test_program_leaves_what_users_run():
    found = program(AGENT)
    assert (found["stopasgroup"], found["killasgroup"]) == ("false", "false")
    assert found["autorestart"] == "unexpected"
    assert shlex.split(found["command"]) == list(AGENT.command)


def test_program_environment():
    from supervisor.datatypes import dict_of_key_value_pairs

    text = program(SERVER)["environment"] % {}
    assert dict_of_key_value_pairs(text) == dict(SERVER.environment)


@pytest.mark.parametrize("word", ["a ;b", "a #b", ";a", "#"])
def test_what_would_begin_a_comment_is_refused(word):
    with pytest.raises(InvalidInput):
        render_program(
            msgspec.structs.replace(AGENT, command=("/bin/echo", word)), logs=Path("/var/log"), autostart=True
        )


def systemd_host(*commands: str) -> Fake:
    return Fake(
        {"/etc/systemd/system/x": "", "/etc/tmpfiles.d/x": ""},
        dict.fromkeys(("systemctl daemon-reload", *commands), ""),
    )


def test_systemd_writes_once():
    fake = systemd_host("systemd-tmpfiles --create /etc/tmpfiles.d/diycloud-server.conf")
    manager = Systemd(fake)
    assert manager.ensure(SERVER)
    assert not manager.ensure(SERVER)
    assert fake.ran == ["systemctl daemon-reload", "systemd-tmpfiles --create /etc/tmpfiles.d/diycloud-server.conf"]


def test_systemd_remove():
    fake = systemd_host("systemctl disable --now diycloud-agent.service")
    fake.commands["systemctl reset-failed diycloud-agent.service"] = Result(1, "", "not loaded")
    manager = Systemd(fake)
    manager.ensure(AGENT)
    assert manager.remove("diycloud-agent")
    assert not manager.remove("diycloud-agent")
    assert not fake.exists("/etc/systemd/system/diycloud-agent.service")


def test_a_failed_start_shows_the_log():
    fake = systemd_host()
    fake.commands["systemctl start diycloud-agent.service"] = Result(1, "", "Job failed.")
    log = "journalctl --no-pager -q -o short-iso -n 10 -u diycloud-agent.service"
    fake.commands[log] = "ImportError: nothing\n"
    with pytest.raises(HostError, match="ImportError: nothing"):
        Systemd(fake).start("diycloud-agent")


def test_service_manager_by_init(tmp_path):
    fake = Fake({"/r/etc/os-release": "ID=debian\n"})
    facts = detect(fake, Path("/r"))
    assert isinstance(service_manager(facts, fake), Supervisor)
    assert isinstance(service_manager(msgspec.structs.replace(facts, init=Init.SYSTEMD), fake), Systemd)
    with pytest.raises(Unsupported, match="openrc"):
        service_manager(msgspec.structs.replace(facts, init=Init.OPENRC), fake)


def test_a_process_is_known_by_its_words_or_by_the_title_of_nginx():
    argv = ["/usr/sbin/nginx", "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;"]
    title = "nginx: master process /usr/sbin/nginx -c /etc/nginx/nginx.conf -g daemon off;"
    assert _is_of("\0".join(argv) + "\0", argv) and _is_of(title + "\0\0", argv)
    for line in ("", "nginx: worker process\0", title.replace(".conf", ".other"), "\0".join(argv[:-1]) + "\0"):
        assert not _is_of(line, argv)
