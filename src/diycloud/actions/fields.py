"""The types of action fields: each with its rule in words, said to whoever breaks it.

Patterns end in \\Z: `$` would let a trailing newline through. `extra` carries what the edges need to know: `rule` (the
words), `kind` (`size`: text like 2G in JSON, bytes inside), `secret` (never shown, logged or audited), `help`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from diycloud.actions.roles import Role

Username = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z",
        extra={
            "rule": "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _",
            "help": "the user's name, fixed for life",
        },
    ),
]
Email = Annotated[
    str,
    Meta(
        max_length=254,
        pattern=r"\A[A-Za-z0-9_][A-Za-z0-9._%+'-]{0,63}"
        r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z",
        extra={
            "rule": "an address such as ada@example.org, in ASCII, at most 254 characters",
            "help": "e-mail address",
        },
    ),
]
_CONTROL = r"\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff"  # and what reorders or hides text
_START = r"(?![=+@-]|\s)"  # a cell a spreadsheet would run; a blank that a table would lose
_END = r"(?<!\s)"
FullName = Annotated[
    str,
    Meta(
        pattern=rf"\A{_START}[^:{_CONTROL}]{{1,100}}{_END}\Z",
        extra={
            "rule": "1–100 printable characters, no colon, no blank at the ends, not starting with = + - @",
            "help": "name for people",
        },
    ),
]
Description = Annotated[
    str,
    Meta(
        pattern=rf"\A{_START}[^{_CONTROL}]{{1,500}}{_END}\Z",
        extra={
            "rule": "1–500 printable characters on one line, no blank at the ends, not starting with = + - @",
            "help": "note for administrators",
        },
    ),
]
Password = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=256,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={"rule": "at most 256 characters, no control characters", "secret": True, "help": "password"},
    ),
]
Cores = Annotated[
    float,
    Meta(
        ge=0.01,
        le=4096,
        extra={"rule": "cores, 0.01–4096, fractions allowed", "help": "CPU limit in cores, such as 0.5"},
    ),
]
MemorySize = Annotated[
    int,
    Meta(
        ge=16 << 20,
        le=1 << 60,
        extra={
            "rule": "a size such as 512M or 2G, at least 16M",
            "kind": "size",
            "help": "memory limit, such as 512M or 2G",
        },
    ),
]
DiskSize = Annotated[
    int,
    Meta(
        ge=1 << 20,
        le=1 << 60,
        extra={"rule": "a size such as 512M or 10G, at least 1M", "kind": "size", "help": "disk quota, such as 10G"},
    ),
]
Tasks = Annotated[
    int,
    Meta(ge=16, le=4_000_000, extra={"rule": "a whole number, 16–4000000", "help": "limit of processes and threads"}),
]
Gpu = Annotated[bool, Meta(extra={"rule": "true or false", "help": "access to GPUs"})]
_ROLES = ", ".join(Role)
RoleField = Annotated[Role, Meta(extra={"rule": f"one of: {_ROLES}", "help": f"what the user may do: {_ROLES}"})]


def _name(help: str) -> Meta:
    rule = "1–32 characters: a–z, 0–9, _ and -, starting with a letter or _"
    return Meta(pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z", extra={"rule": rule, "help": help})


DomainName = Annotated[str, _name("domain")]
PolicyName = Annotated[str, _name("policy: default and largest limits")]
GroupName = Annotated[str, _name("group")]
Usernames = Annotated[
    tuple[Username, ...],
    Meta(min_length=1, max_length=1000, extra={"rule": "1–1000 names of users", "help": "users, with commas between"}),
]
GroupNames = Annotated[
    tuple[GroupName, ...],
    Meta(max_length=64, extra={"rule": "at most 64 names of groups", "help": "groups, with commas between"}),
]
Networks = Annotated[
    tuple[str, ...],
    Meta(
        max_length=64,
        extra={
            "rule": "at most 64 addresses or networks such as 192.0.2.7, 10.1.0.0/16 or 2001:db8::/32",
            "kind": "networks",
            "help": "where the user may come from, with commas between; none: from anywhere",
        },
    ),
]
ExternalId = Annotated[
    str,
    Meta(
        pattern=rf"\A{_START}[^{_CONTROL}]{{1,200}}{_END}\Z",
        extra={
            "rule": "1–200 printable characters, no blank at the ends, not starting with = + - @",
            "help": "id in an outside directory, of one user only",
        },
    ),
]
Shell = Annotated[
    str,
    Meta(
        pattern=r"\A/[A-Za-z0-9/._+-]{1,100}\Z",
        extra={"rule": "a path of /etc/shells, such as /bin/bash", "help": "login shell"},
    ),
]
_ID = {"rule": "a whole number, 0–4294967293"}
ContainerUid = Annotated[
    int, Meta(ge=0, le=4_294_967_293, extra={**_ID, "help": "UID that containers run as, instead of the user's own"})
]
ContainerGid = Annotated[
    int, Meta(ge=0, le=4_294_967_293, extra={**_ID, "help": "GID that containers run as, instead of the user's own"})
]
ContainerGids = Annotated[
    tuple[Annotated[int, Meta(ge=0, le=4_294_967_293)], ...],
    Meta(
        max_length=64,
        extra={"rule": "at most 64 whole numbers, 0–4294967293", "help": "further GIDs of containers, commas between"},
    ),
]
Flag = Annotated[bool, Meta(extra={"rule": "true or false"})]
Search = Annotated[
    str,
    Meta(
        max_length=100,
        pattern=r"\A[^\x00-\x1f\x7f]*\Z",
        extra={"rule": "at most 100 characters", "help": "text to look for"},
    ),
]
Cursor = Annotated[
    str, Meta(max_length=512, extra={"rule": "the cursor of a page's answer", "help": "where the page starts"})
]
PageSize = Annotated[int, Meta(ge=1, le=1000, extra={"rule": "a whole number, 1–1000", "help": "rows in a page"})]
