"""The command line: options and request bodies, passwords, output, exit statuses, and how little it imports."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diycloud.cli import main as cli
from diycloud.cli import transport, verbs
from diycloud.cli.output import facts, printable, table, width
from diycloud.cli.transport import Answer
from diycloud.core.routes import ROUTES
from diycloud.errors import BY_CODE, DiyCloudError, InvalidInput
from diycloud.users.actions import AdoptUser, SetSudo

USER = {
    "username": "ada", "status": "active", "role": "user", "domain": "default", "groups": [],
    "policy": "default", "full_name": "Ada", "email": None, "description": "",
    "limits": {"cpu": 0.5, "memory": "512M", "disk": "5G", "disk_hard": "10G", "tasks": 512, "gpu": False},
    "uid": 20000, "uuid": "x", "portal_only": False, "must_change_password": False, "settled": True, "host_problem": "",
    "created_at": "2026-01-01 00:00:00", "updated_at": "2026-01-01 00:00:00", "last_login": None, "last_login_ip": None,
    "version": 3,
}  # fmt: skip


class Server:
    """Stands where the server is: notes what was sent, answers what the test says."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, str], Any]] = []
        self.answer = Answer(200, {"user": USER, "password": None, "warnings": []})

    def __call__(
        self, target: Any, method: str, path: str, query: dict[str, str], body: Any, *, keyed: bool = False
    ) -> Answer:
        self.sent.append((method, path, query, body))
        return self.answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(verbs, "send", found)
    return found


def run(*words: str, stdin: str = "", monkeypatch: pytest.MonkeyPatch | None = None) -> int:
    if monkeypatch is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    return cli.main(words)


def test_only_what_was_given_is_sent(server: Server) -> None:
    assert (
        run("user", "create", "ada", "--cpu", "0.5", "--memory", "512", "--disk", "1.5G", "--gpu", "--role", "monitor")
        == 0
    )
    assert server.sent == [
        ("POST", "/api/v1/users", {},
         {"username": "ada", "cpu": 0.5, "memory": "512M", "disk": "1536M", "gpu": True, "role": "monitor"}),
    ]  # fmt: skip


def test_the_old_form_with_options_works(server: Server, capsys: Any) -> None:
    words = "user create --username ada --email a@b.org --cpu 0.5 --memory 512 --disk 1024 --role user --gpu"
    assert run(*words.split(), "--password", "correct horse battery") == 0
    (_, _, _, body) = server.sent[0]
    assert (body["password"], body["disk"], body["email"]) == ("correct horse battery", "1G", "a@b.org")
    assert "can be read by everybody" in capsys.readouterr().err


def test_three_states(server: Server) -> None:
    run("user", "modify", "ada", "--email", "", "--no-gpu")
    assert server.sent == [("PATCH", "/api/v1/users/ada", {}, {"email": None, "gpu": False})]


def test_reads_are_queries(server: Server) -> None:
    server.answer = Answer(200, {"users": [USER], "total": 1, "next": None, "previous": None})
    run("user", "list", "--search", "a b&c", "--descending", "--limit", "7")
    assert server.sent == [("GET", "/api/v1/users", {"search": "a b&c", "descending": "true", "limit": "7"}, None)]


@pytest.mark.parametrize("words", [
    ["user", "create", "ada", "--username", "bob"], ["user", "create"], ["user", "create", "-rf"],
    ["user", "create", "a", "--cpu", "x"],
    ["user", "create", "ada", "--memory", "lots"], ["limits", "set", "ada", "--tasks", "1"], ["user", "list", "--sort", "shoe"],
    ["user", "create", "ada", "--password", "x", "--password-file", "y"], ["user", "import", "/does/not/exist"],
    ["user", "import", "/proc/self/exe"], ["audit", "list", "--limit", "0"], ["user", "show", "Ada"],
])  # fmt: skip
def test_bad_input_never_reaches_the_server(server: Server, words: list[str]) -> None:
    try:
        status = run(*words)
    except SystemExit as done:
        status = int(done.code or 0)
    assert (status, server.sent) == (2, [])


def test_every_fault_has_its_line(server: Server, capsys: Any) -> None:
    assert run("user", "create", "Ada", "--cpu", "0", "--email", "x") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["username", "email", "cpu"]
    assert run("user", "create", "Ada", "--cpu", "0", "--json") == 2
    assert {e["field"] for e in json.loads(capsys.readouterr().out)["errors"]} == {"username", "cpu"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("jupytr", "status"), "there is no 'jupytr'. Did you mean jupyter?"),
        (("notebook", "lst"), "there is no 'lst'. Did you mean list?"),
        (("jupyter", "xyz"), "there is no 'xyz'. There are: setup, status, backup, restore, env."),
        (("notebook",), "a verb is missing; `diycloud notebook --help` lists them"),
        ((), "a command is missing; `diycloud --help` lists them"),
    ],
)
def test_a_word_that_is_wrong_or_missing_is_helped_with(words: tuple[str, ...], said: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as left:
        run(*words)
    assert left.value.code == 2
    assert said in capsys.readouterr().err


def test_a_user_who_is_not_named_is_asked_for(server: Server, capsys: Any) -> None:
    assert run("notebook", "list") == 2
    assert "The user's name is missing" in (said := capsys.readouterr().err) and "diycloud notebook list NAME" in said
    assert not server.sent


def test_passwords_from_a_pipe_and_a_file(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("user", "set-password", "ada", "--password", "-", stdin=" pass word \nrest\n", monkeypatch=monkeypatch)
    (tmp_path / "p").write_text("from a file\r\n")
    run("user", "set-password", "ada", "--password-file", str(tmp_path / "p"))
    run("user", "set-password", "ada")
    assert [body for *_, body in server.sent] == [{"password": " pass word "}, {"password": "from a file"}, {}]
    assert run("user", "set-password", "ada", "--password", "-", stdin="\n", monkeypatch=monkeypatch) == 2
    assert run("user", "set-password", "ada", "--password", stdin="", monkeypatch=monkeypatch) == 2, (
        "no terminal to ask at"
    )
    assert run("user", "set-password", "ada", "--password-file", str(tmp_path / "none")) == 2
    assert len(server.sent) == 3


def test_a_purge_asks_before(server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    server.answer = Answer(
        200, {"username": "ada", "status": "deleted", "uid": 1, "home": "/home/ada", "home_size": "1G", "home_files": 2,
              "processes": 0}
    )  # fmt: skip
    assert run("user", "purge", "ada", stdin="ada\n", monkeypatch=monkeypatch) == 2
    assert [method for method, *_ in server.sent] == ["GET"]
    assert "--yes" in capsys.readouterr().err
    server.answer = Answer(200, {"username": "ada", "home_in_trash": True})
    assert run("user", "purge", "ada", "--yes") == 0
    assert server.sent[-1][:2] == ("POST", "/api/v1/users/ada/purge")


@pytest.mark.parametrize("code", BY_CODE)
def test_every_error_has_its_exit_status(server: Server, capsys: Any, code: str) -> None:
    server.answer = Answer(400, {"code": code, "detail": "What happened.", "hint": "What to do.", "errors": []})
    status = run("user", "show", "ada")
    assert status == cli.EXIT[code] and 2 <= status <= 11
    assert capsys.readouterr().err == "diycloud: What happened.\n  What to do.\n"


def test_answers_that_are_none_of_ours(capsys: Any) -> None:
    for answer in (Answer(502, None), Answer(500, {"x": 1}), Answer(404, {"code": "new-kind", "detail": "x"})):
        with pytest.raises(DiyCloudError):
            transport.checked(answer)
    with pytest.raises(InvalidInput) as caught:
        transport.checked(
            Answer(422, {"code": "invalid-input", "detail": "d", "errors": [{"field": "cpu", "message": "m"}]})
        )
    assert [(e.field, e.message) for e in caught.value.errors] == [("cpu", "m")]


def test_nothing_in_the_database_drives_a_terminal(server: Server, capsys: Any) -> None:
    server.answer = Answer(200, {**USER, "full_name": "A\x1b[31mda\nroot", "host_problem": "x\x07"})
    run("user", "show", "ada")
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out
    assert "A\ufffd[31mda\ufffdroot" in out


def test_tables_line_up_in_every_script() -> None:
    assert table(("NAME", "N"), [("日本", 5), ("a\u0301b", 12), ("", None)], right=("N",)).splitlines() == [
        "NAME   N", "日本   5", "a\u0301b    12", "–      –",
    ]  # fmt: skip
    assert (width("日本"), width("e\u0301"), printable(True), printable(1.0), printable(None)) == (
        4,
        1,
        "yes",
        "1",
        "–",
    )
    assert facts([("a", 1), ("long", "x")]) == "a     1\nlong  x"


@pytest.mark.parametrize("route", [r for r in ROUTES if r.verb], ids=lambda r: r.verb)
def test_every_verb_has_help_with_every_option(route: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as done:
        cli.main([*route.verb.split(), "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    own = {AdoptUser: ("all", "dry-run"), SetSudo: ("grant", "revoke")}  # root's own verbs: cli/rooted.py
    for name in own.get(route.action, route.action.__struct_fields__):
        if name == "name" == route.action.target_field:
            assert re.search(r"^  NAME +\w", text, re.M), "what is acted on comes first, without an option"
        elif name not in ("username", "csv", "users", "changes"):  # the last three are in the file
            assert f"--{name.replace('_', '-')}" in text
    assert "--json" in text


GROUP = {
    "name": "lab", "domain": "default", "description": "", "gid": 10_000, "folder": "/srv/diycloud/lab", "disk": None,
    "members": 2, "removing": False, "host_problem": "", "created_at": "2026-01-01 00:00:00",
    "updated_at": "2026-01-01 00:00:00",
}  # fmt: skip


def test_what_is_acted_on_comes_first_for_every_noun(server: Server, capsys: Any) -> None:
    server.answer = Answer(200, {"group": GROUP, "warnings": ["bob: later."]})
    assert run("group", "add-members", "lab", "--members", "ada, bob") == 0
    assert run("group", "remove-members", "lab", "--members", "ada") == 0
    assert run("group", "modify", "lab", "--disk", "", "--description", "x") == 0
    assert server.sent == [
        ("POST", "/api/v1/groups/lab/members", {}, {"members": ("ada", "bob")}),
        ("DELETE", "/api/v1/groups/lab/members", {}, {"members": ("ada",)}),
        ("PATCH", "/api/v1/groups/lab", {}, {"disk": None, "description": "x"}),
    ]
    shown = capsys.readouterr()
    assert "gid      10000" in shown.out and shown.err.count("note: bob: later.") == 3
    with pytest.raises(SystemExit):
        run("group", "show")


def test_an_answer_without_a_body_says_what_was_done(server: Server, capsys: Any) -> None:
    server.answer = Answer(204, None)
    for noun, said in (("domain", "The domain x is gone."), ("policy", "The policy x is gone.")):
        assert run(noun, "remove", "x") == 0
        assert capsys.readouterr().out == f"{said}\n"
    assert run("domain", "remove", "x", "--json") == 0
    assert json.loads(capsys.readouterr().out) is None


@pytest.mark.parametrize(("typed", "removed"), [("lab\n", True), ("lap\n", False), ("\n", False)])
def test_a_group_is_removed_by_who_types_its_name(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: Any, typed: str, removed: bool
) -> None:
    plan = {
        "name": "lab",
        "gid": 10_000,
        "folder": "/srv/diycloud/lab",
        "folder_size": "3M",
        "folder_files": 7,
        "members": 2,
    }
    answers = iter([Answer(200, plan), Answer(204, None)])
    monkeypatch.setattr(verbs, "send", lambda *given, **more: (server(*given, **more), next(answers))[1])
    terminal = io.StringIO(typed)
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    assert run("group", "remove", "lab") == (0 if removed else 2)
    asked = [(method, path) for method, path, _, _ in server.sent]
    assert asked == [("GET", "/api/v1/groups/lab/removal"), ("DELETE", "/api/v1/groups/lab")][: 2 if removed else 1]
    assert "3M in 7 files" in capsys.readouterr().err


def test_policies_are_a_table_of_defaults_and_maxima(server: Server, capsys: Any) -> None:
    policy = {
        "name": "small", "description": "", "users": 3, "domains": ["physics"], "created_at": "", "updated_at": "",
        "defaults": {"cpu": 0.5, "memory": "1G", "disk": "2G", "tasks": 100, "gpu": False},
        "maxima": {"cpu": 2.0, "memory": "4G", "disk": None, "tasks": 400, "gpu": False},
    }  # fmt: skip
    server.answer = Answer(200, {"policies": [policy]})
    run("policy", "list")
    row = capsys.readouterr().out.splitlines()[1]
    assert re.split(r" {2,}", row) == ["small", "0.5 / 2", "1G / 4G", "2G / –", "100 / 400", "no / no", "3", "physics"]


def test_the_first_page_of_help_names_everything(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{word}(?: |$)", text, re.M) for word in cli.COMMANDS)
    assert set(cli.NOUNS) == {route.verb.split()[0] for route in ROUTES if route.verb}
    assert set(cli.EXIT) == set(BY_CODE)


def imported(code: str) -> set[str]:
    argv = [
        sys.executable,
        "-c",
        f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nsys.stderr.write(' '.join(sys.modules))",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


HEAVY = {
    "sqlalchemy",
    "alembic",
    "starlette",
    "uvicorn",
    "structlog",
    "jinja2",
    "cryptography",
    "nacl",
    "asyncio",
    "yaml",
}


def test_help_imports_almost_nothing() -> None:
    found = imported("from diycloud.cli.main import main; main(['--help'])")
    assert not found & (HEAVY | {"msgspec", "json", "http.client", "ssl"})
    ours = {name for name in found if name.startswith("diycloud")}
    assert ours <= {"diycloud", "diycloud.cli", "diycloud.cli.main"}


@pytest.mark.parametrize("verb", ["user create", "user list", "limits set"])
def test_verbs_import_no_database_and_no_web(verb: str) -> None:
    found = imported(f"from diycloud.cli.main import main; main({[*verb.split(), '--help']!r})")
    assert not found & HEAVY, sorted(found & HEAVY)
    assert not any(name.startswith(("diycloud.host", "diycloud.db", "diycloud.web")) for name in found)
