"""The launcher's parts that need no Jupyter: requests, the end of a server's output, starters, records."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diycloud.launcher.output import KEPT, Output
from diycloud.launcher.record import Record, read_kills, read_start_time, write_record
from diycloud.launcher.request import MAX_LINE, Refused, parse_request
from diycloud.launcher.starters import FOLDER, copy_starters

GOOD: dict[str, Any] = {
    "name": "ada", "server": "two", "profile": "small", "uid": 20_001, "gid": 20_001, "groups": [20_001, 10_005],
    "home": "/home/ada", "shell": "/bin/bash", "environment": {"LANG": "C.UTF-8"}, "tmp": "/t/20001",
    "runtime": "/r/ada+two", "record": "/r/ada+two.json", "log": "/r/ada+two.log", "socket": "/s/ada+two.sock",
    "groups_of_processes": ["/sys/fs/cgroup/user/ada/notebook-two"], "kills": {"file": "/k", "key": "oom_kill"},
    "slice": {"memory": "/m", "memory_limit": 1 << 30, "cpu": "/c", "cpu_limit": 1.5}, "templates": ["/usr/share/starters"],
}  # fmt: skip


def parse(**changes: Any) -> Any:
    return parse_request(json.dumps({**GOOD, **changes}).encode())


def test_request_is_read_whole() -> None:
    request = parse()
    assert (request.name, request.server, request.profile) == ("ada", "two", "small")
    assert (request.uid, request.gid, request.groups) == (20_001, 20_001, (20_001, 10_005))
    assert request.home == Path("/home/ada")
    assert request.folders == (Path("/sys/fs/cgroup/user/ada/notebook-two"),)
    assert (request.slice.memory_limit, request.slice.cpu_limit) == (1 << 30, 1.5)
    assert (request.kills_file, request.kills_key) == ("/k", "oom_kill")


def test_what_only_some_hosts_have_may_be_left_out() -> None:
    request = parse(groups_of_processes=[], kills={}, slice={}, templates=[])
    assert request.folders == ()
    assert request.kills_file == ""
    assert request.slice.memory_limit == 0


@pytest.mark.parametrize("key", ["uid", "gid"])
@pytest.mark.parametrize("value", [0, -1, True, "20001", None, 1.5, 2**32 - 1, 2**40])
def test_nobody_but_a_user(key: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"`{key}`"):
        parse(**{key: value})


@pytest.mark.parametrize("value", [[0], ["1"], {"a": 1}, 7])
def test_groups_are_gids_other_than_roots(value: Any) -> None:
    with pytest.raises(Refused, match="`groups`"):
        parse(groups=value)


@pytest.mark.parametrize("key", ["home", "tmp", "runtime", "record", "log", "socket"])
@pytest.mark.parametrize("value", ["", "relative", "../up", None, 7, "/a\0b"])
def test_places_are_absolute(key: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"`{key}`"):
        parse(**{key: value})


@pytest.mark.parametrize("value", [{"": "a"}, {"A=B": "c"}, {"A": 1}, {"A": "\0"}, {"A\0": ""}, ["A"]])
def test_environment_can_be_set(value: Any) -> None:
    with pytest.raises(Refused, match="`environment`"):
        parse(environment=value)


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"7", b"\xff", b"[" * (MAX_LINE - 1)])
def test_line_is_an_object(line: bytes) -> None:
    with pytest.raises(Refused):
        parse_request(line)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    try:
        os.close(writing)
    except OSError:
        pass


def test_end_of_output_is_kept(pipe: tuple[int, int], tmp_path: Path) -> None:
    output, total = Output(pipe[0], tmp_path / "ada.log"), 0
    for number in range(400):
        os.write(pipe[1], f"{number:0999}\n".encode())
        total += 1000
        assert output.read()
    output.write()
    kept = (tmp_path / "ada.log").read_bytes()
    assert total > KEPT == len(kept)
    assert kept.endswith(f"{399:0999}\n".encode())
    assert (tmp_path / "ada.log").stat().st_mode & 0o777 == 0o600
    assert output.last_lines(2) == [f"{398:0999}"[-500:], f"{399:0999}"[-500:]]
    assert output.due() is None


def test_end_of_pipe_is_told(pipe: tuple[int, int], tmp_path: Path) -> None:
    output = Output(pipe[0], tmp_path / "ada.log")
    assert output.read()  # nothing yet
    os.write(pipe[1], b"last \x1b[31mwords\n\n")
    os.close(pipe[1])
    output.read_rest()
    assert output.last_lines() == ["last [31mwords"]
    assert not output.read()


def test_output_that_cannot_be_written_ends_nothing(pipe: tuple[int, int], tmp_path: Path) -> None:
    output = Output(pipe[0], tmp_path / "missing" / "ada.log")
    os.write(pipe[1], b"words\n")
    output.read()
    output.write()
    assert output.last_lines() == ["words"]


def test_record_is_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "ada.json"
    record = Record("ada", "", "small", os.getpid(), read_start_time(os.getpid()), pid=7, started=1.5)
    write_record(record, file)
    assert "ended" not in json.loads(file.read_text())
    record.ended, record.exit_code, record.kills = 2.5, -9, 1
    write_record(record, file)
    assert json.loads(file.read_text()) == {
        "name": "ada", "server": "", "profile": "small", "shim": os.getpid(), "shim_start": record.shim_start, "pid": 7,
        "started": 1.5, "ended": 2.5, "exit_code": -9, "kills": 1,
    }  # fmt: skip
    assert [entry.name for entry in tmp_path.iterdir()] == ["ada.json"]


def test_kills_are_read_by_key(tmp_path: Path) -> None:
    file = tmp_path / "memory.oom_control"
    file.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert read_kills(str(file), "oom_kill") == 3
    assert read_kills(str(tmp_path / "none"), "oom_kill") == 0
    assert read_kills("", "") == 0


def test_starters_of_the_later_folder_win(tmp_path: Path) -> None:
    platform, own, home = tmp_path / "platform", tmp_path / "own", tmp_path / "home"
    for folder in (platform, own, home):
        folder.mkdir()
    (platform / "welcome.ipynb").write_text("the platform's")
    (platform / ".hidden").write_text("")
    (platform / "folder").mkdir()
    (own / "welcome.ipynb").write_text("the administrator's")
    (tmp_path / "file").write_text("")
    copy_starters(
        [platform, own, tmp_path / "missing", tmp_path / "file"], home
    )  # one that cannot be read stops no other
    assert {entry.name: entry.read_text() for entry in (home / FOLDER).iterdir()} == {
        "welcome.ipynb": "the administrator's"
    }


def test_starters_follow_no_link_and_come_once(tmp_path: Path) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    for folder in (source, home, home / FOLDER):
        folder.mkdir()
    for name in ("one.ipynb", "two.ipynb"):
        (source / name).write_text("original")
    (home / FOLDER / "one.ipynb").symlink_to(tmp_path / "victim")
    (home / FOLDER / "two.ipynb").write_text("mine")
    copy_starters([source], home)
    assert not (tmp_path / "victim").exists()
    assert (home / FOLDER / "two.ipynb").read_text() == "mine"
    (home / FOLDER / "two.ipynb").unlink()
    copy_starters([source], home)
    assert not (home / FOLDER / "two.ipynb").exists()


def test_a_starter_that_needs_packages_is_given_once_they_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, home, packages = tmp_path / "source", tmp_path / "home", tmp_path / "packages"
    for folder in (source, home, packages):
        folder.mkdir()

    def needing(*names: object) -> str:
        return json.dumps({"cells": [], "metadata": {"diycloud": {"needs": list(names)}}})

    (source / "table.ipynb").write_text(needing("json", "dtstarterspackage"))
    (source / "part.ipynb").write_text(needing("dtstartersnone.part"))
    (source / "needs.txt").write_text(needing("dtstartersnone"))  # what is no notebook needs nothing
    (source / "here.ipynb").write_text(needing("json"))
    for number, odd in enumerate(
        ("{", "[" * 100_000, "[]", '{"metadata": 5}', '{"metadata": {"diycloud": {"needs": "json"}}}')
    ):
        (source / f"odd{number}.ipynb").write_text(odd)
    (source / "odd5.ipynb").write_text(needing(5, None))
    always = {"needs.txt", "here.ipynb", *(f"odd{number}.ipynb" for number in range(6))}
    copy_starters([source], home)
    assert set(os.listdir(home / FOLDER)) == always
    (packages / "dtstarterspackage.py").write_text("raise SystemExit('it is looked for, not imported')")
    monkeypatch.syspath_prepend(str(packages))
    copy_starters([source], home)
    assert set(os.listdir(home / FOLDER)) == {*always, "table.ipynb"}


def test_home_that_takes_nothing_stops_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    home.mkdir()
    (source / "one.ipynb").write_text("original")
    (home / FOLDER).write_text("a file")
    copy_starters([source], home)
    assert "Starter notebooks" in capsys.readouterr().out


def test_what_is_odd_about_one_starter_stops_neither_the_others_nor_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    home.mkdir()
    (source / "a-link.ipynb").symlink_to(tmp_path / "nowhere")
    (source / ".#being-edited.ipynb").symlink_to("somebody@host.1:2")
    odd = os.fsdecode(b"\xe4.txt")
    (source / odd).write_text("in Latin-1")
    (source / "z.ipynb").write_text("{}")
    mark = home / ".local/share/diycloud/starters"
    mark.parent.mkdir(parents=True)
    mark.write_bytes(b"\xff\xfe no text\n")
    copy_starters([source], home)
    assert set(os.listdir(home / FOLDER)) == {odd, "z.ipynb"}
    (home / FOLDER / odd).unlink()
    copy_starters([source], home)
    assert set(os.listdir(home / FOLDER)) == {"z.ipynb"}, "given once"
    assert "a-link.ipynb" in capsys.readouterr().out


def test_half_a_starter_is_not_taken_for_one(tmp_path: Path) -> None:
    source, home = tmp_path / "source", tmp_path / "home"
    source.mkdir()
    home.mkdir()
    (source / "large.txt").write_text("x" * 100_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, before[1])
    )  # write(2) fails as in a full home (Python ignores SIGXFSZ)
    try:
        copy_starters([source], home)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(home / FOLDER) == []
    copy_starters([source], home)
    assert (home / FOLDER / "large.txt").stat().st_size == 100_000
