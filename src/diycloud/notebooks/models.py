"""What notebooks are, as others see them, and what the hub tells of them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from diycloud.agent.protocol import ProfileName, ServerName

Words = Annotated[str, msgspec.Meta(max_length=500)]
MAX_EVENTS = 100


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of a notebook server, as the hub tells it.

    kind: `started`; `stopped`, because somebody asked (by, empty for its user); `failed`: did not start, or ended by itself.
    at: seconds since 1970; seconds: how long the start took, or how long it had run. reason: a sentence. cause: `start` of
    one that did not start, `memory` of one that was killed for it; `idle` or `age` of one that the hub ended.
    """

    kind: Literal["started", "stopped", "failed"]
    name: Annotated[str, msgspec.Meta(max_length=64)]
    server: ServerName = ""
    profile: ProfileName = ""
    at: Annotated[float, msgspec.Meta(ge=0, le=1e11)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e10)] = 0.0
    by: Annotated[str, msgspec.Meta(max_length=64)] = ""
    reason: Words = ""
    cause: Literal["", "start", "memory", "idle", "age"] = ""


class Events(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    events: Annotated[list[Event], msgspec.Meta(max_length=MAX_EVENTS)]


class HubUser(msgspec.Struct, frozen=True):
    """A user as the hub must know them. active: may work with notebooks now; reason: why not, empty if so."""

    name: str
    active: bool
    reason: str = ""
    full_name: str = ""
    role: str = ""
    admin: bool = False
    domain: str = ""
    groups: tuple[str, ...] = ()


class Profile(msgspec.Struct, frozen=True):
    """A size to choose from. cpu: cores, memory: bytes, each None for no bound but the user's own."""

    name: str
    title: str
    cpu: float | None = None
    memory: int | None = None


class Server(msgspec.Struct, frozen=True):
    """One notebook server. state: `running`, `starting`, `stopping`, `stopped` or `failed`; reason: why it failed.

    name: empty for the first; address: where the browser finds it (a path: at the portal's address); memory: bytes
    now; cpu_seconds: since the start; log: its last lines, of one that failed.
    """

    name: str
    state: str
    address: str
    profile: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    memory: int = 0
    cpu_seconds: float = 0.0
    tasks: int = 0
    reason: str = ""
    log: tuple[str, ...] = ()


class Activity(msgspec.Struct, frozen=True):
    """What was run. outcome: `started`, `stopped` or `failed`; seconds: how long the start took, or how long it had run."""

    at: str
    outcome: str
    server_name: str = ""
    profile: str = ""
    seconds: float | None = None
    by: str = ""
    reason: str = ""


class Notebooks(msgspec.Struct, frozen=True):
    """A user's notebook servers; the first one is always there, if only to be started.

    more: how many may be added; activity: what was run lately, newest first; warnings: what could not be found out.
    """

    username: str
    servers: tuple[Server, ...]
    profiles: tuple[Profile, ...] = ()
    more: int = 0
    activity: tuple[Activity, ...] = ()
    warnings: tuple[str, ...] = ()


class Started(msgspec.Struct, frozen=True):
    """A notebook server that is started. state: `running`, or `starting`: its address answers in a moment."""

    username: str
    server_name: str
    state: str
    address: str
    warnings: tuple[str, ...] = ()


class Stopped(msgspec.Struct, frozen=True):
    """A notebook server that has ended. warnings: what could not be done at once."""

    username: str
    server_name: str
    warnings: tuple[str, ...] = ()
