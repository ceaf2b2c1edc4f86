"""`diycloud login`: whom it believes, where the token is kept, and which server a verb then asks."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diycloud.cli import main as cli
from diycloud.cli.transport import Answer, Target
from diycloud.client import Cloud, session, trust
from diycloud.client.session import Session
from diycloud.config import Paths
from diycloud.core.certificates import fingerprint
from diycloud.errors import InvalidInput, PermissionDenied, Unauthenticated, Unavailable
from diycloud.system import Local
from tests.served import ADMIN, PASSWORD, Served


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration folder of the test's own, and no sign-in in the environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("DIYCLOUD_URL", "DIYCLOUD_TOKEN", "DIYCLOUD_CA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "config/diycloud"


@pytest.fixture
def laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is root here: what root does by itself on a server is not done."""
    monkeypatch.setattr("os.geteuid", lambda: os.getuid())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(*words: str, stdin: str | None = None, at_terminal: bool = False, monkeypatch: Any = None) -> int:
    if stdin is not None:
        monkeypatch.setattr("sys.stdin", (Terminal if at_terminal else io.StringIO)(stdin))
    return cli.main(words)


@pytest.fixture
def secure(empty_database: Path, tmp_path: Path) -> Iterator[Served]:
    with Served(empty_database, tmp_path / "server", tls=True) as found:
        yield found


def known(served: Served) -> str:
    assert served.certificates is not None
    return fingerprint(Local(), served.certificates)


def sign_in(served: Served, monkeypatch: pytest.MonkeyPatch, *more: str, password: str = PASSWORD) -> int:
    words = ["login", served.url, "--username", ADMIN, "--password", "-", *more]
    return run(*words, stdin=password + "\n", monkeypatch=monkeypatch)


# -- whom it believes


def test_the_fingerprint_is_the_one_that_the_installation_shows(secure: Served) -> None:
    offered = trust.fetch_authority("127.0.0.1", secure.port)
    assert trust.fingerprint(offered) == known(secure)
    assert trust.fingerprint(offered).count(":") == 31


def test_signing_in_asks_as_ssh_does_and_then_believes_that_authority_only(
    secure: Served, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["login", secure.url, "--username", ADMIN, "--password-file", str(home.parent / "p")]
    home.parent.mkdir()
    (home.parent / "p").write_text(PASSWORD + "\n")
    assert run(*words, stdin="no\n", at_terminal=True, monkeypatch=monkeypatch) == cli.EXIT["unavailable"]
    assert not home.exists()
    assert run(*words, stdin="yes\n", at_terminal=True, monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr()
    assert known(secure) in shown.err and "Signed in" in shown.out
    kept = session.read()
    assert kept is not None and kept.username == ADMIN and len(kept.token) >= 40
    assert trust.fingerprint(kept.authority) == known(secure)
    assert (home.stat().st_mode & 0o777, (home / "session.json").stat().st_mode & 0o777) == (0o700, 0o600)
    assert sign_in(secure, monkeypatch) == 0
    assert "fingerprint" not in capsys.readouterr().err, "asked once"


def test_without_anybody_to_ask_it_wants_the_fingerprint_or_the_file(
    secure: Served, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert sign_in(secure, monkeypatch) == cli.EXIT["unavailable"]
    assert "--fingerprint" in capsys.readouterr().err
    assert sign_in(secure, monkeypatch, "--fingerprint", "00:11") == cli.EXIT["unavailable"]
    assert not home.exists()
    assert sign_in(secure, monkeypatch, "--fingerprint", known(secure).replace(":", "").lower()) == 0
    assert run("logout") == 0
    assert secure.certificates is not None
    assert sign_in(secure, monkeypatch, "--ca", str(secure.certificates / "ca.crt")) == 0


def test_another_authority_than_the_last_is_said_aloud(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Served(empty_database, tmp_path / "one", tls=True) as first:
        assert sign_in(first, monkeypatch, "--fingerprint", known(first)) == 0
    with Served(empty_database, tmp_path / "two", tls=True) as other:
        kept = session.read()
        assert kept is not None
        session.write(Session(other.url, kept.username, kept.token, kept.expires_at, kept.authority))
        assert run("user", "list") == cli.EXIT["unavailable"], "the token is not sent to it"
        assert "does not hold" in capsys.readouterr().err
        assert sign_in(other, monkeypatch) == cli.EXIT["unavailable"]
        assert "WARNING: the authority of 127.0.0.1 is another" in capsys.readouterr().err


def test_a_certificate_for_another_name_is_not_asked_about(secure: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"https://localhost:{secure.port}"
    assert secure.certificates is not None
    authority = (secure.certificates / "ca.crt").read_text()
    with (
        Cloud.of_session(Session(url, token="x", authority=authority)) as cloud,
        pytest.raises(trust.Untrusted, match="another name"),
    ):
        next(cloud.users())
    words = ["login", url, "--username", ADMIN, "--password", "-", "--fingerprint", known(secure)]
    assert run(*words, stdin=PASSWORD, monkeypatch=monkeypatch) == cli.EXIT["unavailable"]
    assert session.read() is None


def test_the_systems_authorities_are_believed_by_default(secure: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cloud(secure.url, token="x") as cloud, pytest.raises(trust.Untrusted):
        next(cloud.users())
    assert secure.certificates is not None
    monkeypatch.setenv("SSL_CERT_FILE", str(secure.certificates / "ca.crt"))  # OpenSSL's own way to add one
    assert sign_in(secure, monkeypatch) == 0
    kept = session.read()
    assert kept is not None and kept.authority == ""


@pytest.mark.parametrize(
    "text", ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "\xff"]
)
def test_files_that_are_no_authority(tmp_path: Path, text: str) -> None:
    (tmp_path / "ca.crt").write_text(text, encoding="latin-1")
    with pytest.raises(InvalidInput):
        Cloud("https://127.0.0.1:1", token="x", ca=tmp_path / "ca.crt")
    with pytest.raises(InvalidInput):
        trust.read_authority(tmp_path / "none.crt")


# -- the way through


def test_the_same_command_line_from_a_laptop(
    secure: Served, monkeypatch: pytest.MonkeyPatch, capsys: Any, laptop: None
) -> None:
    assert sign_in(secure, monkeypatch, "--fingerprint", known(secure), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["username"] == ADMIN and shown["expires_at"] > time.time() and "token" not in shown
    assert run("user", "create", "ada", "--cpu", "0.5", "--json") == 0
    assert json.loads(capsys.readouterr().out)["user"]["limits"]["cpu"] == 0.5
    assert run("user", "list") == 0
    assert "ada" in capsys.readouterr().out
    assert run("user", "show", "nobody-here") == cli.EXIT["not-found"]
    assert run("audit", "list", "--action", "user.create", "--json") == 0
    assert [entry["actor"] for entry in json.loads(capsys.readouterr().out)["entries"]] == [ADMIN]
    assert run("whoami") == 0
    assert f"user         {ADMIN}" in capsys.readouterr().out
    with Cloud.connect() as cloud:
        assert "ada" in [user.username for user in cloud.users()]
    kept = session.read()
    assert kept is not None
    assert run("logout") == 0
    assert run("user", "list") == cli.EXIT["unauthenticated"]
    with Cloud.of_session(kept) as gone, pytest.raises(Unauthenticated):
        next(gone.users())
    capsys.readouterr()
    assert run("logout") == 0
    assert "Nobody is signed in" in capsys.readouterr().out


def test_a_script_needs_no_password(
    secure: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, laptop: None
) -> None:
    assert sign_in(secure, monkeypatch, "--fingerprint", known(secure)) == 0
    capsys.readouterr()
    assert run("token", "create", ADMIN, "--label", "CI", "--scopes", "users:read", "--days", "7", "--json") == 0
    secret = json.loads(capsys.readouterr().out)["secret"]
    assert run("token", "list", ADMIN) == 0
    listed = capsys.readouterr().out
    assert "users:read" in listed and secret not in listed and secret[4:16] in listed
    kept = session.read()
    assert kept is not None
    assert run("logout") == 0
    # by the environment
    file, authority = tmp_path / "token", tmp_path / "ca.crt"
    file.write_text(f"{secret}\n")
    authority.write_text(kept.authority)
    for name, value in {"URL": kept.url, "TOKEN_FILE": str(file), "CA": str(authority)}.items():
        monkeypatch.setenv(f"DIYCLOUD_{name}", value)
    assert run("user", "show", ADMIN) == 0
    assert run("user", "create", "eve") == cli.EXIT["permission-denied"]
    with Cloud.connect() as cloud:
        assert [user.username for user in cloud.users()] == [ADMIN]
    monkeypatch.setenv("DIYCLOUD_TOKEN_FILE", str(tmp_path / "none"))
    assert run("user", "list") == cli.EXIT["invalid-input"]
    for name in ("URL", "TOKEN_FILE", "CA"):
        monkeypatch.delenv(f"DIYCLOUD_{name}")
    # or kept
    assert run("login", "--token-stdin", stdin="not a token\n", monkeypatch=monkeypatch) == cli.EXIT["invalid-input"]
    spoilt = f"{secret[:-1]}{'A' if secret[-1] != 'A' else 'B'}\n"
    assert run("login", "--token-stdin", stdin=spoilt, monkeypatch=monkeypatch) == cli.EXIT["unauthenticated"]
    assert run("login", "--token-stdin", stdin=f"{secret}\n", monkeypatch=monkeypatch) == 0
    capsys.readouterr()
    assert run("whoami") == 0
    told = capsys.readouterr().out
    assert ADMIN in told and "users:read" in told
    assert run("token", "revoke", ADMIN, "--key-id", secret[4:16]) == cli.EXIT["permission-denied"], "not its own end"
    assert run("logout") == 0 and "diycloud token revoke" in capsys.readouterr().out


def test_a_wrong_password_keeps_nothing(secure: Served, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = sign_in(secure, monkeypatch, "--fingerprint", known(secure), password="wrong wrong wrong")
    assert status == cli.EXIT["unauthenticated"]
    assert not home.exists()


def test_a_one_time_password_is_changed_from_here(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    mine = "violet comet marble otter"
    with Served(empty_database, tmp_path / "server", one_time=True) as served:
        assert sign_in(served, monkeypatch) == 0
        assert "diycloud account password" in capsys.readouterr().err
        assert run("user", "list") == cli.EXIT["permission-denied"]
        assert run("whoami") == 0
        assert "choose a password of your own" in capsys.readouterr().out
        words = ["account", "password", "--current", "-", "--password", "-"]
        assert run(*words, stdin=f"{PASSWORD}\n{mine}\n", monkeypatch=monkeypatch) == 0
        assert run("user", "list") == 0, "the session that changed it goes on"
        capsys.readouterr()
        assert run("whoami", "--json") == 0
        assert json.loads(capsys.readouterr().out)["must_change_password"] is False
        assert sign_in(served, monkeypatch) == cli.EXIT["unauthenticated"]
        assert sign_in(served, monkeypatch, password=mine) == 0


def test_a_server_that_is_gone_does_not_keep_one_signed_in_here(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Served(empty_database, tmp_path / "server") as served:
        assert sign_in(served, monkeypatch) == 0
    assert run("user", "list") == cli.EXIT["unavailable"]
    assert run("logout") == 0
    assert "forgotten here" in capsys.readouterr().err
    assert run("user", "list") == cli.EXIT["unauthenticated"]


def test_a_token_that_does_not_hold_any_more(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Served(empty_database, tmp_path / "server") as served:
        session.write(Session(served.url, ADMIN, "made-up", int(time.time()) + 60))
        assert run("user", "list") == cli.EXIT["unauthenticated"]
        assert "does not hold any more" in capsys.readouterr().err
        session.write(Session(served.url, ADMIN, "made-up", int(time.time()) - 1))
        assert run("user", "list") == cli.EXIT["unauthenticated"]
        assert "ended at" in capsys.readouterr().err


def test_the_last_server_is_the_default(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    with Served(empty_database, tmp_path / "server") as served:
        assert sign_in(served, monkeypatch) == 0
        assert run("logout") == 0
        assert run("login", "--password", "-", stdin=PASSWORD, monkeypatch=monkeypatch) == 0, "the same name too"
    kept = session.read()
    assert kept is not None and (kept.url, bool(kept.token)) == (served.url, True)


# -- which server


@pytest.mark.parametrize(("root", "here", "server", "signed_in", "wanted"), [
    (True, True, "", True, "socket"), (True, True, "", False, "socket"), (True, True, "cloud.test", True, "session"),
    (True, True, "other.test", True, Unauthenticated), (True, False, "", True, "session"), (True, False, "", False, "socket"),
    (False, True, "", True, "session"), (False, True, "", False, PermissionDenied), (False, False, "", True, "session"),
    (False, False, "other.test", True, Unauthenticated), (False, False, "", False, PermissionDenied),
])  # fmt: skip
def test_which_server_is_asked(
    root: bool, here: bool, server: str, signed_in: bool, wanted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Session("https://cloud.test", "ada", "token", int(time.time()) + 60)
    monkeypatch.setattr(session, "read", lambda *_: kept if signed_in else None)
    monkeypatch.setattr("os.geteuid", lambda: 0 if root else 1000)
    paths = Paths(str(tmp_path / "host")) if here else Paths("/")
    monkeypatch.setattr(Paths, "server_socket", tmp_path / "no.sock") if not here else None
    monkeypatch.setattr(Paths, "state", tmp_path / "no-state") if not here else None
    target = Target(paths, server)
    if isinstance(wanted, str):
        found = target.session()
        assert (found is None) == (wanted == "socket")
    else:
        with pytest.raises(wanted):
            target.session()


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    session.write(Session("https://cloud.test", "ada", "kept"))
    assert session.find("", {"XDG_CONFIG_HOME": str(tmp_path / "config")}) == Session(
        "https://cloud.test", "ada", "kept"
    )
    given = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "DIYCLOUD_URL": "other.test", "DIYCLOUD_TOKEN": "secret"}
    assert session.find("", given) == Session("https://other.test", token="secret")
    assert session.find("third.test", given) == Session("https://third.test", token="secret")
    del given["DIYCLOUD_TOKEN"]
    assert session.find("", given) is None
    with pytest.raises(InvalidInput, match="DIYCLOUD_TOKEN"):
        session.find("", {"DIYCLOUD_TOKEN": "secret"})


def test_on_behalf_of_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        "diycloud.cli.transport._at_socket", lambda paths, request, sink: sent.append(request) or _EMPTY
    )
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert run("--prefix", "/nowhere", "--as", "user", "audit", "list") == 0
    assert run("--prefix", "/nowhere", "user", "list") == 0
    assert [request.headers for request in sent] == [{"X-On-Behalf-Of": "user"}, {}]
    with pytest.raises(KeyError):  # the answer is no user
        run("--prefix", "/nowhere", "user", "create", "ada")
    assert list(sent[-1].headers) == ["Idempotency-Key"]


_EMPTY = Answer(200, {"entries": [], "users": [], "policies": [], "total": 0, "next": None})


@pytest.mark.parametrize("words", [["--as", "ada", "doctor"], ["--server", "cloud.test", "status"]])
def test_what_is_about_this_machine_asks_no_other(words: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as done:
        run(*words)
    assert done.value.code == 2 and "about this machine" in capsys.readouterr().err


# -- where it is kept


def test_a_sign_in_comes_back_as_it_was_kept(home: Path) -> None:
    assert session.read() is None
    kept = Session("https://cloud.test", "ada", "token", 4_000_000_000, "PEM")
    assert session.write(kept) == home / "session.json"
    assert session.read() == kept
    assert [path.name for path in home.iterdir()] == ["session.json"]
    session.forget()
    found = session.read()
    assert found == Session("https://cloud.test", "ada", authority="PEM"), "what vouches for the server is remembered"
    with pytest.raises(Unauthenticated):
        found.check()


def test_files_that_others_could_have_read_are_refused(home: Path, tmp_path: Path) -> None:
    path = session.write(Session("https://cloud.test", "ada", "token"))
    for mode in (0o640, 0o604, 0o660, 0o622):
        path.chmod(mode)
        with pytest.raises(PermissionDenied, match="Others can read"):
            session.read()
    path.chmod(0o600)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionDenied, match="is a link"):
        session.read()
    assert run("user", "list") in (cli.EXIT["permission-denied"], cli.EXIT["unavailable"])
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(PermissionDenied, match="not a file"):
        session.read()
    path.unlink()
    path.mkdir()
    with pytest.raises(PermissionDenied):
        session.read()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_files_of_somebody_else_are_refused(home: Path) -> None:
    path = session.write(Session("https://cloud.test", "ada", "token"))
    os.chown(path, 65534, 65534)
    with pytest.raises(PermissionDenied, match="not a file of yours"):
        session.read()
    os.chown(home, 65534, 65534)
    with pytest.raises(PermissionDenied, match="not yours"):
        session.write(Session("https://cloud.test"))


def test_a_link_planted_in_its_place_leads_nowhere(home: Path, tmp_path: Path) -> None:
    session.write(Session("https://cloud.test", "ada", "old"))
    (tmp_path / "victim").write_text("precious")
    (home / "session.json").unlink()
    (home / "session.json").symlink_to(tmp_path / "victim")
    session.write(Session("https://cloud.test", "ada", "new"))
    assert (tmp_path / "victim").read_text() == "precious"
    assert not (home / "session.json").is_symlink()
    found = session.read()
    assert found is not None and found.token == "new"
    home.rename(tmp_path / "moved")
    home.symlink_to(tmp_path / "moved")
    with pytest.raises(PermissionDenied, match="is a link"):
        session.write(Session("https://cloud.test", "ada", "newer"))


def test_a_folder_that_was_open_is_closed(home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o777)
    session.write(Session("https://cloud.test"))
    assert home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"url": 5}', '{"url": "http://cloud.example.org"}', '{"token": "x"}', "\xff"]
)
def test_a_damaged_file_is_named(home: Path, text: str) -> None:
    path = session.write(Session("https://cloud.test"))
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInput, match=r"session\.json is damaged"):
        session.read()


def test_a_relative_configuration_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert session.folder({"XDG_CONFIG_HOME": "relative"}) == tmp_path / ".config/diycloud"
    assert session.folder({}) == tmp_path / ".config/diycloud"


def test_nobody_is_asked_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Paths, "server_socket", Path("/nonexistent/server.sock"))
    monkeypatch.setattr(Paths, "state", Path("/nonexistent/state"))
    assert run("whoami") in (cli.EXIT["unauthenticated"], cli.EXIT["permission-denied"])
    with pytest.raises(Unauthenticated, match="Nobody is signed in"):
        Cloud.connect()
    assert run("login", stdin="", monkeypatch=monkeypatch) == 2
    with pytest.raises(Unavailable):
        trust.fetch_authority("127.0.0.1", 1)
