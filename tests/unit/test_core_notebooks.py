"""Setting notebooks up on hosts in memory: environments, accounts, what hub and portal know each other by, shared kernels."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from sqlalchemy import create_engine, event, select

from diycloud.auth.oidc import clients
from diycloud.auth.oidc.first_party import Wanted, ensure_client
from diycloud.config import Paths, Settings
from diycloud.config_notebooks import NotebookSettings
from diycloud.core import doctor_notebooks, environments, kernels
from diycloud.core import notebook_steps as do
from diycloud.core.doctor_notebooks import examine_notebooks
from diycloud.core.environments import PACKAGE, REQUIREMENTS, Environment, ensure_environment, is_current
from diycloud.core.install_steps import accounts
from diycloud.core.installation import Installation
from diycloud.core.nginx import Site, notebook_places, render_site
from diycloud.core.options import InstallOptions, options_from
from diycloud.core.services import AGENT, HUB, LAUNCHER, SERVER, Platform, hub_service, launcher_service, server_service
from diycloud.db.tables import audit, metadata
from diycloud.distro.detect import Init
from diycloud.distro.services import Hardening
from diycloud.distro.supervisor import Supervisor, render_program
from diycloud.distro.systemd import render_unit
from diycloud.distro.tables import family
from diycloud.errors import Conflict, HostError, InvalidInput, NotFound
from diycloud.system import Owner, Result
from diycloud.system.dry_run import DryRun
from diycloud.system.fake import Fake
from diycloud.system.recording import Recording

HUB_OWNER, SERVER_OWNER = Owner(997, 997), Owner(998, 998)
PASSWD = {
    "diycloud": "diycloud:x:998:998::/nonexistent:/usr/sbin/nologin",
    "diycloud-hub": "diycloud-hub:x:997:997::/nonexistent:/usr/sbin/nologin",
}


class Host(Fake):
    """A host whose `venv` makes folders and whose pip writes down what is in them; `missing`: accounts."""

    def __init__(self, *missing: str) -> None:
        super().__init__({"/etc/os-release": 'ID=debian\nVERSION_ID="12"\n', "/usr/bin/apt-get": ""})
        for name in ("hub.txt", "lab.txt", "lab-data.txt", "kernel.txt"):
            self.write_all(REQUIREMENTS / name, (REQUIREMENTS / name).read_text())
        self.missing = set(missing)
        self.groups: dict[str, set[str]] = {}
        self.secret = "s" * 43
        self.fail = ""

    def write_all(self, path: Path, text: str) -> None:
        self.files.update(Fake({str(path): text}).files | self.files)
        self.write(path, text)

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        line = " ".join(argv)
        self.ran.append(line)
        if self.fail and self.fail in line:
            return Result(1, "", "no space left")
        words = list(argv)
        if words[:2] == ["getent", "passwd"]:
            found = PASSWD.get(words[2], "") if words[2] not in self.missing else ""
            return Result(0 if found else 2, found, "")
        if words[0].endswith("useradd"):
            self.missing.discard(words[-1])
        if words[0] == "usermod":
            self.groups.setdefault(words[-1], set()).update(words[-2].split(","))
        if words[0] == "id":
            return Result(0, " ".join(self.groups.get(words[-1], ())), "")
        if "venv" in words:
            self.write_all(Path(words[-1]) / "bin/python", "")
            self.write(Path(words[-1]) / "pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
            self.write_all(Path(words[-1]) / "lib" / f"python3.{sys.version_info[1]}" / "site-packages/pip.py", "")
        if "--version" in words and "pip" in words:
            return Result(0 if self.exists(words[0]) else 127, "", "")
        if "install" in words and "pip" in words:
            self._pip(words)
        if "diycloud.auth.oidc.first_party" in words:
            given = json.loads(input or "")["secret"]
            kept = given == self.secret
            return Result(0, json.dumps({"secret": self.secret, "changed": not kept}), "")
        return Result(0, "x86_64" if words[0] == "uname" else "", "")

    def _pip(self, words: list[str]) -> None:
        site = next(
            path
            for path in self.files
            if path.startswith(words[0][: -len("bin/python")]) and "site-packages/pip.py" in path
        )
        for package in words[words.index("--") + 1 :] if "--" in words else ["ipykernel==7.0"]:
            name, _, version = package.partition("==")
            self.write(Path(site).parent / f"{name}-{version or '1.0'}.dist-info", "")


def run_on(host: Fake, prefix: str, **options) -> Installation:
    return Installation(host, InstallOptions(prefix=prefix, **options))


@pytest.fixture
def nowhere(tmp_path) -> str:
    return str(tmp_path)


def lab(folder: str = "/opt/x/lab", *packages: str) -> Environment:
    return Environment(Path(folder), REQUIREMENTS / "lab.txt", packages, program=True)


# -- the requirements


@pytest.mark.parametrize("name", ["hub", "lab", "lab-data", "kernel"])
def test_every_requirement_has_its_version_and_hashes_and_no_address(name):
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(blocks) > 10
    for block in blocks:
        assert re.match(r"[a-z0-9._-]+==[^\s;]+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]
    assert not re.search(r"https?:|--(extra-)?index|--find-links|@ ", text)


def test_the_larger_environment_is_the_smaller_one_and_more():
    def pins(name: str) -> set[str]:
        lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        return {line.rstrip(" \\") for line in lines if re.match("[a-z]", line)}

    assert pins("lab") < pins("lab-data")
    assert {pin.split("==")[0] for pin in pins("lab-data") - pins("lab")} >= {"numpy", "pandas", "matplotlib", "scipy"}


# -- environments


def test_an_environment_is_made_once():
    host = Host()
    assert ensure_environment(host, lab())
    assert is_current(host, lab())
    venv, install = (line for line in host.ran if "venv" in line or "pip install" in line)
    assert venv.endswith("-I -m venv /opt/x/lab")
    assert "--require-hashes --only-binary :all: --requirement" in install and "--no-input" in install
    assert host.files[str(lab().site_packages / "diycloud")].target == str(PACKAGE)
    host.ran.clear()
    assert not ensure_environment(host, lab())
    assert host.ran == []


def test_an_environment_is_noted_as_whole_once_it_is_on_disk(monkeypatch):
    """A power cut would leave the note beside files that are empty: pip does not wait for the disk."""
    host, noted = Host(), list[tuple[bool, str]]()
    write = host.write

    def look(path, text, **more):
        if str(path).endswith(".made-from"):
            noted.append((json.loads(text)["whole"], host.ran[-1]))
        return write(path, text, **more)

    monkeypatch.setattr(host, "write", look)
    ensure_environment(host, lab("/opt/x/lab", "seaborn"))
    assert [last for whole, last in noted if whole] == ["sync -f /opt/x/lab"]
    assert not noted[0][0]


def test_what_administrators_add_is_held_to_the_versions_and_runs_no_code_as_root():
    host = Host()
    ensure_environment(host, lab("/opt/x/lab", "jupyterlab-git", "seaborn==0.13.2"))
    added = next(line for line in reversed(host.ran) if "pip install" in line)
    assert added.endswith(
        "--only-binary :all: --constraint /opt/x/lab/constraints.txt -- jupyterlab-git seaborn==0.13.2"
    )
    held = host.read("/opt/x/lab/constraints.txt") or ""
    assert re.search(r"(?m)^jupyterlab==4\.\S+$", held) and "--hash" not in held


def test_what_is_not_wanted_any_more_is_taken_out():
    host = Host()
    ensure_environment(host, lab("/opt/x/lab", "Seaborn[all]>=0.13", "bokeh"))
    host.ran.clear()
    ensure_environment(host, lab("/opt/x/lab", "bokeh==3.8"))
    assert host.ran[1].endswith("pip uninstall --disable-pip-version-check --no-input --yes -- seaborn")
    assert [line for line in host.ran if "venv" in line] == []


def test_other_requirements_or_another_python_make_it_again():
    host = Host()
    ensure_environment(host, lab())
    host.write(REQUIREMENTS / "lab.txt", "jupyterlab==5.0.0 --hash=sha256:00\n")
    assert not is_current(host, lab())
    host.ran.clear()
    assert ensure_environment(host, lab())
    assert not [line for line in host.ran if "venv" in line], "the same Python: pip changes it in place"
    note = json.loads(host.read("/opt/x/lab/.made-from") or "")
    host.write("/opt/x/lab/.made-from", json.dumps({**note, "python": "/usr/bin/python3.10 3.10.1"}))
    host.write("/opt/x/lab/old", "")
    assert ensure_environment(host, lab())
    assert [line for line in host.ran if "venv" in line] and not host.exists("/opt/x/lab/old")


def test_killed_before_any_effect_the_next_run_makes_it_right():
    """An environment that had other packages: at each point what is noted is enough to end at the same."""

    class Killed(BaseException):
        pass

    def die(number: int):
        count = 0

        def before(effect: str) -> None:
            nonlocal count
            count += 1
            if count == number:
                raise Killed

        return before

    whole = Host()
    ensure_environment(whole, lab("/opt/x/lab", "new"))
    for number in range(1, 40):
        host = Host()
        ensure_environment(host, lab("/opt/x/lab", "old"))
        host.ran.clear()
        try:
            ensure_environment(Recording(host, before=die(number)), lab("/opt/x/lab", "new"))
        except Killed:
            assert not is_current(host, lab("/opt/x/lab", "new"))
            ensure_environment(host, lab("/opt/x/lab", "new"))
            assert any("uninstall" in line and line.endswith("-- old") for line in host.ran)
            assert host.read("/opt/x/lab/.made-from") == whole.read("/opt/x/lab/.made-from")
            continue
        assert number > 5
        return
    pytest.fail("it never got to its end")


def test_a_failed_installation_is_not_taken_for_one(nowhere):
    host = Host()
    host.fail = "pip install"
    with pytest.raises(HostError, match="no space left"):
        ensure_environment(host, lab())
    assert not is_current(host, lab())
    host.fail = ""
    assert ensure_environment(host, lab()) and is_current(host, lab())


@pytest.mark.parametrize("is_open", [True, False])
def test_what_is_outside_can_be_used_where_it_should_but_is_no_part_of_it(is_open):
    during = []

    class Watched(Host):
        def _pip(self, words):
            during.append("packages = false" in (self.read("/opt/x/lab/pyvenv.cfg") or ""))
            super()._pip(words)

    host = Watched()
    environment = msgspec.structs.replace(lab("/opt/x/lab", "bokeh"), open=is_open)
    ensure_environment(host, environment)
    host.write(REQUIREMENTS / "lab.txt", "jupyterlab==5.0.0 --hash=sha256:00\n")
    ensure_environment(host, environment)
    assert len(during) == 4 and all(during)
    assert ("packages = true" in (host.read("/opt/x/lab/pyvenv.cfg") or "")) is is_open


def test_pips_settings_of_the_machine_are_used(monkeypatch):
    seen = {}

    class Watched(Host):
        def run(self, argv, *, env=None, **more):
            if "pip" in argv:
                seen.update(env or {})
            return super().run(argv, env=env, **more)

    used = {"PIP_PROXY": "p", "SSL_CERT_FILE": "/c", "https_proxy": "h"}
    for name, value in {**used, "PYTHONPATH": "/evil", "LD_PRELOAD": "x"}.items():
        monkeypatch.setenv(name, value)
    ensure_environment(Watched(), lab())
    assert seen.items() >= used.items()
    assert not {"PYTHONPATH", "LD_PRELOAD"} & seen.keys()


# -- the steps


def test_the_hub_is_a_service_account_in_two_groups(nowhere):
    host = Host("diycloud", "diycloud-hub")
    assert accounts(run_on(host, nowhere)) == "made diycloud, made diycloud-hub"
    assert host.groups == {"diycloud-hub": {"diycloud", "www-data"}}
    host.ran.clear()
    assert accounts(run_on(host, nowhere)) == "diycloud is there, diycloud-hub is there"
    assert not [line for line in host.ran if line.startswith("usermod")]


def test_without_notebooks_nothing_of_them_is_made(nowhere):
    host = Host("diycloud", "diycloud-hub")
    run = run_on(host, nowhere, without_notebooks=True)
    assert accounts(run) == "made diycloud"
    assert (do.environments(run), do.sign_in(run)) == ("not wanted here", "not wanted here")
    assert run.site.notebooks is None
    assert not [path for path in host.files if "jupyter" in path]


def test_the_option_can_stand_in_the_environment():
    assert options_from({}, {"DIYCLOUD_WITHOUT_NOTEBOOKS": "true"}).without_notebooks
    assert not options_from({}, {}).without_notebooks


def prepare(host: Host, run: Installation) -> None:
    for folder in (run.paths.state, run.paths.logs):
        host.write_all(folder / "x", "")
    do.folders(run)


def test_folders_are_whose_they_should_be(nowhere):
    host = Host()
    run = run_on(host, nowhere)
    prepare(host, run)
    found = {path: (file.mode, file.owner) for path, file in host.files.items()}
    assert found[str(run.paths.hub_state)] == (0o700, HUB_OWNER)
    assert found[str(run.paths.notebook_tmp)] == (0o711, Owner(0, 0))
    assert found[str(run.paths.kernels / "share/jupyter/kernels")] == (0o755, Owner(0, 0))


def test_hub_and_portal_are_made_known_to_each_other_once(nowhere):
    host = Host()
    run = run_on(host, nowhere, domain="cloud.example.org", https_port=8443)
    prepare(host, run)
    assert do.sign_in(run) == "made the hub's sign-in and the server's token"
    assert HUB in run.changed
    paths = run.paths
    client = json.loads(host.read(paths.hub_client) or "")
    assert client == {"client_id": "notebooks", "client_secret": host.secret}
    assert host.read(paths.hub_token) == host.read(paths.portal_token)
    modes = {
        path: (host.files[str(path)].mode, host.files[str(path)].owner) for path in (paths.hub_client, paths.hub_token)
    }
    assert set(modes.values()) == {(0o600, HUB_OWNER)}
    assert (host.files[str(paths.portal_token)].mode, host.files[str(paths.portal_token)].owner) == (
        0o600,
        SERVER_OWNER,
    )
    token = host.read(paths.hub_token)
    assert do.sign_in(run) == "as it should be"
    assert host.read(paths.hub_token) == token


@pytest.mark.parametrize("lost", ["hub_client", "hub_token", "portal_token"])
def test_what_is_lost_of_it_is_made_again(nowhere, lost):
    host = Host()
    run = run_on(host, nowhere)
    prepare(host, run)
    do.sign_in(run)
    host.remove(getattr(run.paths, lost))
    assert do.sign_in(run).startswith("made")
    assert host.read(run.paths.hub_token) == host.read(run.paths.portal_token)
    assert do.sign_in(run) == "as it should be"


@pytest.mark.parametrize("kept", ["", "{", '{"client_id": 1}', "[]", "\udcff"])
def test_a_damaged_client_file_is_written_again(nowhere, kept):
    host = Host()
    run = run_on(host, nowhere)
    prepare(host, run)
    host.write(run.paths.hub_client, kept)
    do.sign_in(run)
    assert json.loads(host.read(run.paths.hub_client) or "")["client_secret"] == host.secret


def test_labs_files_are_packed_once(nowhere):
    host = Host()
    run = run_on(host, nowhere)
    prepare(host, run)
    assert do.environments(run) == "made hub and lab"
    packed = [line for line in host.ran if "gzip" in line]
    assert len(packed) == 1 and packed[0].endswith("/share/jupyter/labextensions")
    assert do.environments(run) == "up to date"
    assert len([line for line in host.ran if "gzip" in line]) == 1


def test_whatever_reads_the_settings_is_started_again():
    """The agent refuses a size that it does not know, and the portal offers none that it does not."""
    asked = []
    platform = SimpleNamespace(up=lambda *, restart: asked.extend(restart) or list(restart))
    do.start(SimpleNamespace(platform=platform, changed=set()))
    assert {*asked} == {AGENT, SERVER, LAUNCHER, HUB}


def test_a_plan_tells_what_would_be_done_and_no_secret(nowhere):
    host = Host("diycloud-hub")
    lines: list[str] = []
    run = Installation(DryRun(host, lines.append), InstallOptions(prefix=nowhere, with_notebooks=True))
    accounts(run)
    do.folders(run)
    do.environments(run)
    do.sign_in(run)
    text = "\n".join(lines)
    for word in ("useradd", "venv", "hub.txt", "lab-data.txt", "first_party", "client.json", "precompress"):
        assert word in text, word
    assert not re.search(r"[0-9a-f]{64}", text.replace(str(nowhere), ""))
    assert not [path for path in host.files if "jupyter" in path]


# -- the portal's side


def database():
    engine = create_engine("sqlite://")
    event.listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    metadata.create_all(engine)
    return engine


WANTED = Wanted("notebooks", "Notebooks", ("https://a/jupyter/hub/oauth_callback",))


def test_the_hub_becomes_a_trusted_application():
    engine = database()
    with engine.begin() as connection:
        kept = ensure_client(connection, WANTED)
        found = clients.by_name(connection, "notebooks")
        assert found and kept.changed and found.has_secret(kept.secret)
        assert (found.app.trusted, found.app.pkce, found.app.public, found.app.scopes) == (
            True, True, False, ("openid", "profile", "email", "groups"),
        )  # fmt: skip
        again = ensure_client(connection, msgspec.structs.replace(WANTED, secret=kept.secret))
        assert again == msgspec.structs.replace(kept, changed=False)
        assert len(connection.execute(select(audit)).all()) == 1
    engine.dispose()


def test_a_secret_that_works_no_more_is_replaced_and_other_addresses_follow():
    engine = database()
    with engine.begin() as connection:
        first = ensure_client(connection, WANTED)
        other = ensure_client(connection, msgspec.structs.replace(WANTED, secret="wrong"))
        assert other.secret not in ("wrong", first.secret) and other.changed
        moved = msgspec.structs.replace(WANTED, secret=other.secret, redirect_uris=("https://b/x",))
        assert ensure_client(connection, moved) == msgspec.structs.replace(other, changed=True)
        found = clients.by_name(connection, "notebooks")
        assert found and found.takes_back_at("https://b/x") and not found.takes_back_at(WANTED.redirect_uris[0])
    engine.dispose()


def test_an_application_that_was_switched_off_stays_off():
    engine = database()
    with engine.begin() as connection:
        kept = ensure_client(connection, WANTED)
        clients.change(connection, "notebooks", {"enabled": False})
        assert not ensure_client(connection, msgspec.structs.replace(WANTED, secret=kept.secret)).changed
        found = clients.by_name(connection, "notebooks")
        assert found and not found.app.enabled
    engine.dispose()


# -- services and site


def test_the_hub_has_no_network_and_no_privilege():
    paths = Paths()
    unit = render_unit(hub_service(paths, Settings()))
    assert "ExecStart=/opt/diycloud/jupyter/hub/bin/python -I -u -m diycloud.hub.main" in unit
    lines = ("User=diycloud-hub", "RestrictAddressFamilies=AF_UNIX", "PrivateNetwork=yes", "NoNewPrivileges=yes")
    folders = ("ReadWritePaths=/var/lib/diycloud/hub", "Environment=HOME=/var/lib/diycloud/hub")
    for line in (*lines, "ProtectSystem=strict", *folders):
        assert f"\n{line}\n" in unit, line
    program = render_program(hub_service(paths, Settings()), logs=paths.logs, autostart=True)
    assert "--reuid=diycloud-hub --regid=diycloud-hub --init-groups" in program and "--no-new-privs" in program


def test_hub_and_server_see_who_calls_them():
    """In a user namespace of its own (PrivateUsers=) a service takes all others for one: the hub for Nginx, users for both."""
    with_hub, without = (Settings(notebooks=NotebookSettings(enabled=enabled)) for enabled in (True, False))
    assert "PrivateUsers" not in render_unit(hub_service(Paths(), with_hub))
    assert "PrivateUsers" not in render_unit(server_service(Paths(), with_hub, "www-data"))
    assert "PrivateUsers=yes" in render_unit(server_service(Paths(), without, "www-data"))


def test_what_the_launcher_started_outlives_it_and_inherits_nothing():
    service = launcher_service(Paths())
    assert service.hardening is Hardening.NONE and service.leaves_children
    unit = render_unit(service)
    assert "KillMode=process" in unit and "User=root" in unit
    assert "NoNewPrivileges" not in unit and "Private" not in unit
    folders = {folder.path: (folder.user, folder.mode) for folder in service.folders}
    assert folders["/run/diycloud/launcher"] == ("root", 0o700)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_services_are_those_that_the_settings_want(nowhere, enabled):
    host = Fake({f"{nowhere}/{place}/x": "" for place in ("etc", "var/log", "run")})
    host._execute = lambda argv, input: Result(1, "", "")  # type: ignore[method-assign]
    paths = Paths(nowhere)
    settings = Settings(notebooks=NotebookSettings(enabled=enabled))
    manager = Supervisor(host, paths)
    platform = Platform(host, manager, Init.NONE, family("debian"), paths, settings)
    platform.ensure()
    assert ({HUB, LAUNCHER} <= set(manager.names())) is enabled
    assert ({HUB, LAUNCHER} <= set(platform.names)) is enabled
    if enabled:
        assert platform.names.index(LAUNCHER) < platform.names.index(HUB) < platform.names.index("nginx")
        off = Platform(
            host, manager, Init.NONE, family("debian"), paths, Settings(notebooks=NotebookSettings(enabled=False))
        )
        assert set(off.ensure()) == {HUB, LAUNCHER}
        assert not {HUB, LAUNCHER} & set(manager.names())


def test_an_orphan_is_ended_and_a_notebook_server_with_its_command_line_is_not(nowhere):
    """Servers are forked from the launcher, so their command line is its own; they lead sessions of their own."""
    line = "/opt/diycloud/jupyter/lab/bin/python\0-I\0-u\0-m\0diycloud.launcher\0--prefix\0" + nowhere + "\0"
    python = f"{nowhere}/opt/diycloud/jupyter/lab/bin/python"
    line = line.replace("/opt/diycloud/jupyter/lab/bin/python", python)
    processes = {"100": "S 1 100 50", "200": "S 1 200 200", "201": "S 200 200 200"}
    files = {f"/proc/{pid}/cmdline": line for pid in processes}
    files |= {f"/proc/{pid}/stat": f"{pid} (python) {rest} 0 -1" for pid, rest in processes.items()}
    host = Fake({**files, **{f"{nowhere}/{place}/x": "" for place in ("etc", "var/log", "run")}})
    host._execute = lambda argv, input: Result(0 if "supervisord" in argv[0] else 1, "", "")  # type: ignore[method-assign]
    ended: list[int] = []
    host.kill = lambda pid, sig=9: bool(ended.append(pid)) or False  # type: ignore[method-assign]
    paths = Paths(nowhere)
    manager = Supervisor(host, paths)
    manager.ensure(launcher_service(paths))
    host.run = lambda argv, **_: Result(0, "", "")  # type: ignore[method-assign]
    manager.up()
    assert ended == [100]


def test_the_site_has_notebooks_only_where_they_are():
    paths = Paths("/p")
    places = notebook_places(paths, NotebookSettings())
    plain = Site(("a",), 443, 80, paths.server_socket, paths.certificates, Path("/s"), Path("/f"))
    text = render_site(plain, default=True, ipv6=False, http2_directive=False)
    assert "jupyter" not in text and "notebook" not in text
    whole = msgspec.structs.replace(plain, notebooks=places)
    text = render_site(whole, default=True, ipv6=False, http2_directive=False)
    assert "server unix:/p/run/diycloud/hub/hub.sock" in text
    assert "hub/login" not in text and "gzip_static" not in text
    asking = msgspec.structs.replace(whole, notebooks=notebook_places(paths, NotebookSettings(sign_in="pam")))
    text = render_site(asking, default=True, ipv6=False, http2_directive=False, gzip_static=True)
    assert "location = /jupyter/hub/login" in text and text.count("gzip_static on") == 2


# -- shared environments


def test_a_shared_environment_is_offered_when_it_is_whole():
    host, paths = Host(), Paths("/p")
    host.write_all(paths.kernels / "envs/x", "")
    host.remove(paths.kernels / "envs/x")
    host.fail = "pip install"
    with pytest.raises(HostError):
        kernels.create(host, paths, "ml", ("torch==2.9",))
    (begun,) = kernels.list_kernels(host, paths)
    assert "not finished" in begun.problem
    host.fail = ""
    made = kernels.create(host, paths, "ml", ("torch==2.9",))
    assert made.problem == "" and "torch 2.9" in made.packages
    spec = json.loads(host.read(paths.kernels / "share/jupyter/kernels/ml/kernel.json") or "")
    assert spec["argv"] == [
        f"{paths.kernels}/envs/ml/bin/python",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]
    with pytest.raises(Conflict):
        kernels.create(host, paths, "ml", ())
    assert "seaborn 1.0" in kernels.install(host, paths, "ml", ("seaborn",)).packages
    kernels.remove(host, paths, "ml")
    assert kernels.list_kernels(host, paths) == []
    assert not [path for path in host.files if "/ml" in path]
    with pytest.raises(NotFound):
        kernels.remove(host, paths, "ml")
    with pytest.raises(NotFound):
        kernels.install(host, paths, "ml", ("x",))


@pytest.mark.parametrize("name", ["", "python3", "../x", "A", "a/b", "a b", "-a", "a\n", "x" * 41, ".x"])
def test_what_is_no_name_of_an_environment(name):
    for act in (
        lambda: kernels.create(Host(), Paths("/p"), name, ()),
        lambda: kernels.remove(Host(), Paths("/p"), name),
    ):
        with pytest.raises(InvalidInput):
            act()


@pytest.mark.parametrize(
    "package",
    [
        "",
        "-r/etc/shadow",
        "--index-url=http://e",
        "a b",
        "git+https://x/y",
        "./x",
        "/x.whl",
        "a@https://x",
        "a;b",
        "a\n-r x",
    ],
)
def test_what_is_no_package(package):
    with pytest.raises(InvalidInput):
        kernels.create(Host(), Paths("/p"), "ml", (package,))


def test_shared_environments_of_another_python_are_made_again_in_their_versions():
    host, paths = Host(), Paths("/p")
    host.write_all(paths.kernels / "envs/x", "")
    host.remove(paths.kernels / "envs/x")
    kernels.create(host, paths, "ml", ("torch==2.9",))
    assert kernels.refresh(host, paths) == []
    site = kernels._environment(paths, "ml").site_packages
    host.rename(site.parent, site.parent.parent / "python3.9")
    note = json.loads(host.read(paths.kernels / "envs/ml/.made-from") or "")
    host.write(paths.kernels / "envs/ml/.made-from", json.dumps({**note, "python": "old"}))
    assert "another Python" in kernels.list_kernels(host, paths)[0].problem
    assert kernels.refresh(host, paths) == ["ml"]
    assert "torch 2.9" in kernels.list_kernels(host, paths)[0].packages
    assert kernels.list_kernels(host, paths)[0].problem == ""


# -- doctor


def test_doctor_says_what_is_wrong_with_notebooks(nowhere):
    host = Host()
    run = run_on(host, nowhere)
    said = [found.detail for found in examine_notebooks(run) if found.result == "fail"]
    assert any("hub environment is not there" in text for text in said)
    assert any("diycloud-hub is not in diycloud and www-data, whose sockets" in text for text in said)
    assert any("client.json, by which hub" in text for text in said)
    assert not any("notebooks.profiles" in found.detail for found in examine_notebooks(run))
    off = run_on(host, nowhere, without_notebooks=True)
    assert [found.result for found in examine_notebooks(off)] == ["ok"]


def test_doctor_says_which_profiles_nobody_is_offered(tmp_path):
    (tmp_path / "etc/diycloud").mkdir(parents=True)
    profiles = "{small: {cpu: 1}, box: {kind: docker, image: lab}}"
    (tmp_path / "etc/diycloud/config.yaml").write_text(f"notebooks:\n  profiles: {profiles}\n")
    run = run_on(Host(), str(tmp_path))
    (said,) = [found for found in examine_notebooks(run) if "notebooks.profiles" in found.detail]
    assert said.result == "warn" and said.detail.startswith("nobody is offered box of") and "`kind`" in said.advice


def test_doctor_tells_a_damaged_environment_from_one_that_is_not_there(nowhere):
    host = Host()
    run = run_on(host, nowhere)
    prepare(host, run)
    do.environments(run)

    def said() -> dict[str, str]:
        return {
            one.detail.split(" environment")[0]: f"{one.result}: {one.detail}. {one.advice}"
            for one in examine_notebooks(run)
        }

    assert said()["the lab"].startswith("ok")
    answer = host._execute
    lacks = Result(1, "", "jupyterlab\n")
    host._execute = lambda argv, input: lacks if "jupyterlab" in argv else answer(argv, input)  # type: ignore[method-assign]
    assert said()["the lab"].startswith("fail: the lab environment is damaged: without jupyterlab. `rm -r ")
    assert said()["the hub"].startswith("ok")
    host._execute = answer  # type: ignore[method-assign]
    host.remove(run.paths.lab_environment / "bin/python")
    assert said()["the lab"].startswith("fail: the lab environment is not there:")
    assert do.environments(run) == "made lab" and said()["the lab"].startswith("ok"), "the advice holds"


@pytest.mark.parametrize(
    ("printed", "message", "hint"),
    [
        ("x/python failed with status 1: WARNING: y\nERROR: Could not find nix (from versions: none)\n"
         "ERROR: No matching distribution found for nix", "Could not find nix (from versions: none)\nNo matching", "wheel"),
        ("x/python failed with status 1: ERROR: Cannot install numpy==1.0 because of x.\nERROR: ResolutionImpossible: for",
         "Cannot install numpy==1.0 because", "stay"),
        ("x/python failed with status 2: no space left", "x/python failed with status 2: no space left", ""),
    ],
)  # fmt: skip
def test_what_pip_says_is_told_without_its_warnings(printed, message, hint):
    host = Host()
    host.run = lambda *_, **__: (_ for _ in ()).throw(HostError(printed))  # type: ignore[method-assign]
    with pytest.raises(HostError) as refused:
        environments.pip(host, lab(), "install", "nix")
    assert refused.value.message.startswith(f"pip cannot install in /opt/x/lab: {message}")
    assert "WARNING" not in refused.value.message and (hint in refused.value.hint if hint else not refused.value.hint)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ({"redirect_uris": [], "enabled": True}, "does not sign people in to the hub at the address"),
        ({"redirect_uris": "right", "enabled": False}, "the application notebooks is switched off"),
        ({"redirect_uris": "right", "enabled": True}, ""),
        (None, "does not sign people in to the hub at the address"),
    ],
)
def test_doctor_asks_whether_people_can_sign_in_to_the_hub(nowhere, monkeypatch, app, said):
    run = run_on(Host(), nowhere)
    if app and app["redirect_uris"] == "right":
        app = {**app, "redirect_uris": [*do.callbacks(run), "https://more/"]}
    apps = [{"name": "other"}, *([{"name": "notebooks", **app}] if app else [])]
    monkeypatch.setattr(doctor_notebooks, "ask_json", lambda *_: {"apps": apps})
    found = [one for one in examine_notebooks(run) if "sign" in one.detail]
    assert [one.result for one in found] == (["fail"] if said else [])
    assert all(said in one.detail and "`diycloud " in one.advice for one in found)


def test_doctor_says_of_a_folder_for_new_users_that_is_not_there(tmp_path):
    (tmp_path / "etc/diycloud").mkdir(parents=True)
    file = tmp_path / "etc/diycloud/config.yaml"
    for folder, expected in (("/srv/none", ["warn"]), ("/etc/diycloud/notebooks", [])):
        file.write_text(f"notebooks:\n  templates: {folder}\n")
        found = examine_notebooks(run_on(Host(), str(tmp_path)))
        assert [one.result for one in found if "notebooks.templates" in one.detail] == expected
