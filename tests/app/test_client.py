"""The Python client with the real application behind a port: what it sends, what comes back, what it needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from diycloud.auth.actions import ChangePassword, ExportAudit, ListAudit
from diycloud.client import Cloud, Progress, Report, connection, parse_size, print_progress, requests
from diycloud.core.routes import ROUTES, result_type
from diycloud.errors import Conflict, InvalidInput, NotFound, PermissionDenied, PreconditionFailed, Unauthenticated
from diycloud.users.actions import (
    CreateUser,
    DeleteUser,
    DisableUser,
    ImportUsers,
    ListUsers,
    ModifyUser,
    SetLimits,
    ShowUser,
)
from tests.served import PASSWORD, Served

ROOT = Path(__file__).parents[2]


@pytest.fixture
def served(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(empty_database, tmp_path) as found:
        yield found


@pytest.fixture
def cloud(served: Served) -> Iterator[Cloud]:
    with Cloud.sign_in(served.url, "admin", PASSWORD, timeout=20) as found:
        yield found


def test_actions_are_run_and_answered_typed(cloud: Cloud) -> None:
    made = cloud.ask(CreateUser(username="ada", cpu=0.5, memory=parse_size("512M"), full_name="Ada"))
    assert made.status == 202, "no agent is there: the host follows later"
    assert (made.result.user.limits.cpu, made.result.user.limits.memory) == (0.5, "512M")
    assert made.result.password and len(made.result.password) >= 12
    assert cloud.run(ShowUser(username="ada")).full_name == "Ada"
    changed = cloud.run(ModifyUser(username="ada", full_name=None)).user
    assert (changed.full_name, changed.limits.cpu) == ("", 0.5), "null clears, what is left out stays"
    assert cloud.run(SetLimits(username="ada", cpu=2)).user.limits.cpu == 2
    entries = cloud.run(ListAudit(action="user.create")).entries
    assert [(entry.actor, entry.via, entry.target) for entry in entries] == [("admin", "rest", "ada")]


def test_errors_are_the_same_as_on_the_server(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada"))
    with pytest.raises(Conflict, match="ada") as taken:
        cloud.run(CreateUser(username="ada"))
    assert isinstance(taken.value.__cause__, requests.Problem)
    assert taken.value.__cause__.status == 409 and taken.value.__cause__.body["request_id"]
    with pytest.raises(NotFound):
        cloud.run(ShowUser(username="nobody-here"))
    with pytest.raises(InvalidInput) as wrong:
        cloud.run(ChangePassword(current="not this one", password="another long password"))
    assert [error.field for error in wrong.value.errors] == ["current"]
    with pytest.raises(InvalidInput) as rows:
        cloud.run(ImportUsers(csv="username\nbob\nBad Name\n"))
    assert [error.field for error in rows.value.errors] == ["line 3, username"]


@pytest.mark.parametrize("action", [
    ShowUser(username=".."), ShowUser(username="a/../b"), ShowUser(username="a?b#c"), ShowUser(username=""),
    CreateUser(username="ada", cpu=-1), ListUsers(limit=0), ListUsers(search="a\nb"), CreateUser(username="ada", memory=-5),
    ShowUser(username=None), ListUsers(limit="5"),  # type: ignore[arg-type]
], ids=repr)  # fmt: skip
def test_what_cannot_be_right_is_not_sent(action: Any) -> None:
    with Cloud("http://127.0.0.1:1", token="x") as nowhere, pytest.raises(InvalidInput) as refused:
        nowhere.run(action)
    assert len(refused.value.errors) == 1


def test_every_fault_is_named_at_once() -> None:
    with Cloud("http://127.0.0.1:1", token="x") as nowhere, pytest.raises(InvalidInput) as refused:
        nowhere.run(CreateUser(username="Ada", cpu=0.0, tasks=1))
    assert [error.field for error in refused.value.errors] == ["username", "cpu", "tasks"]


def test_pages_are_walked_lazily(served: Served, cloud: Cloud) -> None:
    names = [f"u{number:03}" for number in range(25)]
    cloud.run(ImportUsers(csv="username\n" + "\n".join(names)))
    assert [user.username for user in cloud.users(search="u0", limit=10)] == names
    walk = cloud.users(search="u0", limit=10)
    assert next(walk).username == "u000"
    cloud.run(DeleteUser(username="u024"))
    assert [user.username for user in walk][-1] == "u023", "later pages are asked for later"
    assert len(list(cloud.users(search="u0", status="all", limit=1000))) == 25
    entries = [entry.id for page in cloud.pages(ListAudit(limit=2)) for entry in page.entries]
    assert len(entries) >= 3 and entries == sorted(entries, reverse=True)
    with pytest.raises(TypeError, match="no pages"):
        next(cloud.pages(ShowUser(username="u000")))
    with pytest.raises(TypeError):
        next(cloud.users(shoe_size=43))


def test_many_actions_report_row_by_row_and_stop_for_none(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="u2"))
    seen: list[Progress] = []
    names = ["u0", "u1", "u2", "Bad", "u4", "u5"]
    report = cloud.bulk([CreateUser(username=name) for name in names], connections=3, progress=seen.append)
    assert [row.number for row in report.rows] == list(range(6))
    assert [row.action.target for row in report.rows] == names
    assert [(row.number, type(row.error)) for row in report.failed] == [(2, Conflict), (3, InvalidInput)]
    assert [made.user.username for made in report.results] == ["u0", "u1", "u4", "u5"]
    assert [step.done for step in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1] == Progress(6, 6, 2)
    assert isinstance(cloud.bulk([]), Report)


def test_a_whole_file_is_written_as_it_comes(cloud: Cloud, tmp_path: Path) -> None:
    cloud.run(CreateUser(username="ada", full_name="Ada, Countess"))
    with open(tmp_path / "audit.csv", "w+b") as file:
        cloud.download(ExportAudit(action="user.create"), file)
    lines = (tmp_path / "audit.csv").read_text().splitlines()
    assert len(lines) == 2 and "user.create" in lines[1] and lines[0].startswith("id,")


def test_a_change_meanwhile_is_noticed(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada", full_name="Ada"))
    shown = cloud.ask(ShowUser(username="ada"))
    assert shown.etag
    changed = cloud.ask(ModifyUser(username="ada", full_name="Augusta"), if_match=shown.etag)
    assert changed.result.user.full_name == "Augusta" and changed.etag not in ("", shown.etag)
    with pytest.raises(PreconditionFailed):
        cloud.run(ModifyUser(username="ada", full_name="Lovelace"), if_match=shown.etag)
    assert cloud.run(ShowUser(username="ada")).full_name == "Augusta"


def test_acting_on_behalf_of_somebody_is_audited_as_both(cloud: Cloud) -> None:
    cloud.run(CreateUser(username="ada"))
    assert cloud.on_behalf_of("ada").run(ShowUser(username="ada")).username == "ada"
    with pytest.raises(PermissionDenied):
        cloud.on_behalf_of("ada").run(CreateUser(username="bob"))
    refused = cloud.run(ListAudit(action="user.create", outcome="refused")).entries
    assert [(entry.actor, entry.on_behalf_of) for entry in refused] == [("admin", "ada")]


def test_who_is_not_signed_in_is_told_so(served: Served) -> None:
    with pytest.raises(Unauthenticated):
        Cloud.sign_in(served.url, "admin", "wrong password")
    with Cloud(served.url, token="made up") as stranger, pytest.raises(Unauthenticated):
        stranger.run(ListUsers())
    cloud = Cloud.sign_in(served.url, "admin", PASSWORD)
    token = cloud._headers["Authorization"].removeprefix("Bearer ")
    cloud.sign_out()
    with Cloud(served.url, token=token) as again, pytest.raises(Unauthenticated):
        again.run(ListUsers())


def test_a_user_sees_only_what_users_may(served: Served, cloud: Cloud) -> None:
    cloud.run(CreateUser(username="bob", password=PASSWORD + " bob", must_change_password=False))
    with Cloud.sign_in(served.url, "bob", PASSWORD + " bob") as bob:
        assert bob.run(ShowUser(username="bob")).username == "bob"
        with pytest.raises(PermissionDenied):
            bob.run(DisableUser(username="admin"))
        with pytest.raises(PermissionDenied):
            list(bob.users())


def test_long_work_is_told_row_by_row(served: Served, cloud: Cloud) -> None:
    told: list[dict[str, Any]] = []
    text = "username\n" + "\n".join(f"u{number:03}" for number in range(120))
    report = cloud.follow(ImportUsers(csv=text), told.append)
    assert (len(report.rows), report.refused) == (120, 0)
    assert [row["username"] for row in told] == [row.username for row in report.rows]
    with pytest.raises(InvalidInput) as refused:
        cloud.follow(ImportUsers(csv="username\nBad Name\n"), told.append)
    assert [error.field for error in refused.value.errors] == ["line 2, username"]
    assert len(told) == 120


# -- addresses, requests, and what it needs


@pytest.mark.parametrize(("text", "wanted"), [
    ("cloud.example.org", "https://cloud.example.org"), ("https://cloud.example.org/", "https://cloud.example.org"),
    ("https://Cloud.Example.ORG:443", "https://cloud.example.org"), ("192.0.2.7:8443", "https://192.0.2.7:8443"),
    ("https://[2001:db8::1]:444", "https://[2001:db8::1]:444"), ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
    ("http://localhost", "http://localhost"), ("http://[::1]:80", "http://[::1]"),
])  # fmt: skip
def test_addresses_as_people_write_them(text: str, wanted: str) -> None:
    assert connection.check_url(text) == wanted
    assert connection.check_url(wanted) == wanted


@pytest.mark.parametrize("text", [
    "", "https://", "http://cloud.example.org", "ftp://cloud.example.org", "https://user:secret@cloud.example.org",
    "https://cloud.example.org/portal", "https://cloud.example.org?x=1", "https://cloud.example.org#x", "https://a b",
    "https://cloud.example.org:port", "https://cloud.example.org:99999", "https://[::1", "https://cloud\r\nX: y", "/etc",
    "http://127.0.0.1.evil.example",
])  # fmt: skip
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        connection.check_url(text)


@pytest.mark.parametrize("route", ROUTES, ids=lambda r: r.action.action_name)
def test_every_action_can_be_asked_for_and_its_answer_read(route: Any) -> None:
    assert requests.route_of(route.action) is route
    if route.status != 204:
        msgspec.json.Decoder(result_type(route.action))


def test_only_what_says_something_is_sent() -> None:
    made = requests.values_of(CreateUser(username="ada", cpu=2, memory=1 << 30, gpu=True, full_name=None))
    assert made == {"username": "ada", "cpu": 2.0, "memory": 1 << 30, "gpu": True}
    route = requests.route_of(CreateUser)
    assert requests.request_of(route, made)[2] == {"username": "ada", "cpu": 2.0, "memory": "1G", "gpu": True}
    assert requests.values_of(ModifyUser(username="ada", email=None)) == {"username": "ada", "email": None}
    with pytest.raises(TypeError, match="no action"):
        requests.values_of(42)  # type: ignore[arg-type]


def test_what_stands_in_a_path_cannot_leave_it() -> None:
    path, _, _ = requests.request_of(requests.route_of(ShowUser), {"username": "../a?b/c d"})
    assert path == "/api/v1/users/..%2Fa%3Fb%2Fc%20d"


def test_progress_is_one_line(capsys: Any) -> None:
    for done in (1, 2):
        print_progress(Progress(done, 2, 1))
    assert capsys.readouterr().err == "2 of 2, 1 failed\n"


ALONE = """
import sys
sys.path[:0] = sys.argv[1:]
import diycloud.client, diycloud.client.cloud, diycloud.client.bulk, diycloud.client.session, diycloud.client.trust
assert all(hasattr(diycloud.client, name) for name in diycloud.client.__all__)
from diycloud.cli.main import main
for words in (["--help"], ["user", "create", "--help"], ["login", "--help"], ["whoami", "--help"]):
    try:
        main(words)
    except SystemExit as done:
        assert done.code == 0
known = sys.stdlib_module_names | {"diycloud", "msgspec", "__main__"}
print(sorted({name.partition(".")[0] for name in sys.modules} - known), file=sys.stderr)
"""


def test_client_and_verbs_need_python_and_msgspec_only(tmp_path: Path) -> None:
    shutil.copytree(Path(msgspec.__file__).parent, tmp_path / "msgspec")
    words = [sys.executable, "-I", "-S", "-c", ALONE, str(tmp_path), str(ROOT / "src")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={"HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_the_room_keeps_its_own_weight_low() -> None:
    code = "import sys, diycloud.client.requests, diycloud.client.connection; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"diycloud.client.cloud", "concurrent.futures", "hashlib", "asyncio"} & set(found)
    assert os.path.exists(ROOT / "src/diycloud/py.typed"), "types are for those who use it, too"
