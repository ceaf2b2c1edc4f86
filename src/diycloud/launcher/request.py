"""What the agent asks of the launcher: one line of JSON, and with it the descriptor the server is to listen on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_LINE = 128 * 1024
"""Bytes of a line, with its end."""


class Refused(Exception):
    """The request cannot be met; the text says why."""


@dataclass(frozen=True)
class SliceFacts:
    """Where the server's numbers are, and the limits at its start. memory_limit: bytes; cpu_limit: cores; 0 for none."""

    memory: str = ""
    memory_limit: int = 0
    cpu: str = ""
    cpu_quota: str = ""
    cpu_limit: float = 0.0


@dataclass(frozen=True)
class Request:
    """One server. folders: those of its own sub-cgroup, none where systemd keeps it in a scope.

    runtime: a folder that is made for it, in one of root's; kills_file, kills_key: where the kernel counts the processes that
    it killed for memory; templates: folders whose files a new user gets.
    """

    name: str
    server: str
    profile: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: Path
    shell: str
    environment: dict[str, str]
    tmp: Path
    runtime: Path
    record: Path
    log: Path
    socket: Path
    folders: tuple[Path, ...] = ()
    kills_file: str = ""
    kills_key: str = ""
    slice: SliceFacts = SliceFacts()
    templates: tuple[Path, ...] = ()


def parse_request(line: bytes) -> Request:
    """Return what a line asks. Raises Refused, naming the field that is wrong."""
    given = parse_object(line)
    kills, slice_facts = _object(given, "kills"), _object(given, "slice")
    request = Request(
        name=_text(given, "name"),
        server=_text(given, "server"),
        profile=_text(given, "profile"),
        uid=_number(given, "uid"),
        gid=_number(given, "gid"),
        groups=tuple(_number({"groups": gid}, "groups") for gid in _list(given, "groups")),
        home=_path(given, "home"),
        shell=_text(given, "shell"),
        environment=_environment(given),
        tmp=_path(given, "tmp"),
        runtime=_path(given, "runtime"),
        record=_path(given, "record"),
        log=_path(given, "log"),
        socket=_path(given, "socket"),
        folders=_paths(given, "groups_of_processes"),
        kills_file=_text(kills, "file"),
        kills_key=_text(kills, "key"),
        slice=SliceFacts(
            memory=_text(slice_facts, "memory"),
            memory_limit=int(slice_facts.get("memory_limit") or 0),
            cpu=_text(slice_facts, "cpu"),
            cpu_quota=_text(slice_facts, "cpu_quota"),
            cpu_limit=float(slice_facts.get("cpu_limit") or 0),
        ),
        templates=_paths(given, "templates"),
    )
    if not request.name:
        raise Refused("`name` is empty")
    return request


def parse_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line. Raises Refused."""
    try:
        given = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refused(f"not a line of JSON: {error}") from error
    if not isinstance(given, dict):
        raise Refused("not a JSON object")
    return given


def _object(given: dict[str, Any], key: str) -> dict[str, Any]:
    value = given.get(key) or {}
    if not isinstance(value, dict):
        raise Refused(f"`{key}` is no object")
    return value


def _list(given: dict[str, Any], key: str) -> list[Any]:
    value = given.get(key) or []
    if not isinstance(value, list):
        raise Refused(f"`{key}` is no list")
    return value


def _text(given: dict[str, Any], key: str) -> str:
    value = given.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise Refused(f"`{key}` is no text")
    return value


def _number(given: dict[str, Any], key: str) -> int:
    """Return a UID or GID, never root's."""
    value = given.get(key)
    if type(value) is not int or not 0 < value < 2**32 - 1:
        raise Refused(f"`{key}` must be a UID or GID other than root's")
    return value


def _path(given: dict[str, Any], key: str) -> Path:
    value = _text(given, key)
    if not value.startswith("/"):
        raise Refused(f"`{key}` is no absolute path")
    return Path(value)


def _paths(given: dict[str, Any], key: str) -> tuple[Path, ...]:
    return tuple(_path({key: value}, key) for value in _list(given, key))


def _environment(given: dict[str, Any]) -> dict[str, str]:
    environment = _object(given, "environment")
    for key, value in environment.items():
        if not key or "=" in key or "\0" in key or not isinstance(value, str) or "\0" in value:
            raise Refused(f"`environment`: {key!r} cannot be set")
    return environment
