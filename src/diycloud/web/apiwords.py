"""The words of the OpenAPI description that no declaration has: header fields, examples, what holds everywhere."""

from __future__ import annotations

from typing import Any

from diycloud.auth.actions import ChangePassword, Credentials, SecondStep
from diycloud.auth.factor_actions import ActivateTotp
from diycloud.domains.actions import CreateDomain, ModifyDomain
from diycloud.groups.actions import AddMembers, CreateGroup, ModifyGroup, RemoveMembers
from diycloud.policies.actions import CreatePolicy, ModifyPolicy
from diycloud.users.actions import CreateUser, ImportUsers, ModifyUser, SetLimits

INTRODUCTION = """\
Every GET can be asked as HEAD; OPTIONS names a path's methods. Sizes are text with a unit. In a change, a field that is left
out stays as it is, and null clears it. Errors are problem details (RFC 9457). On the server itself root needs no token."""

_NUMBER = {"type": "integer", "minimum": 0}
_TEXT = {"type": "string"}
_TAG = {"type": "string", "examples": ['"5bd1c83f0e6a9f27-90aa31c20d5e7b64"']}
HEADERS: dict[str, Any] = {
    "RateLimit-Limit": {"description": "requests in a minute; root on the server has no limit", "schema": _NUMBER},
    "RateLimit-Remaining": {"description": "requests that pass at once", "schema": _NUMBER},
    "RateLimit-Reset": {"description": "seconds until it is the whole limit again", "schema": _NUMBER},
    "Retry-After": {"description": "seconds after which it is worth trying again", "schema": _NUMBER},
    "ETag": {"description": "names this state of the thing, for If-Match", "schema": _TAG},
    "Location": {"description": "where the new thing is", "schema": _TEXT},
    "Link": {"description": "the pages after and before this one (RFC 8288)", "schema": _TEXT},
    "Idempotency-Replayed": {
        "description": "true: done before, this is the first answer again",
        "schema": {"const": "true"},
    },
    "WWW-Authenticate": {"description": "which credentials are taken", "schema": _TEXT},
    "Allow": {"description": "the methods that the address has", "schema": _TEXT},
    "Accept": {"description": "the media types that are taken", "schema": _TEXT},
}
"""Header fields of answers."""

PARAMETERS: dict[str, Any] = {
    "OnBehalfOf": {
        "name": "X-On-Behalf-Of", "in": "header", "required": False,
        "description": "Do it as this user, with this user's rights; the audit has both names.",
        "schema": {"type": "string", "pattern": "^[a-z_][a-z0-9_-]{0,31}$"},
    },
    "IfMatch": {
        "name": "If-Match", "in": "header", "required": False,
        "description": "Only if the thing is as one of these entity tags says, or `*`; else 412.", "schema": _TEXT,
    },
    "IfNoneMatch": {
        "name": "If-None-Match", "in": "header", "required": False,
        "description": "Only if the thing is not as one of these entity tags says: else 304 for a read, 412 for a change.",
        "schema": _TEXT,
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key", "in": "header", "required": False,
        "description": "A random name of this request: sent again within a day it is done once and answered the same.",
        "schema": {"type": "string", "pattern": "^[!#-~]{16,255}$", "examples": ["7f0c9a52e1d44b0b9d5a6c1f8e3b2a90"]},
    },
    "DryRun": {
        "name": "dry_run", "in": "query", "required": False, "schema": {"type": "boolean"},
        "description": "With a body of text/csv: check only, change nothing. With JSON it is a field of the body.",
    },
}  # fmt: skip
"""What requests may say beside their fields."""

LOGIN: dict[str, Any] = {
    "type": "object",
    "required": ["token", "token_type", "username", "expires_at", "must_change_password", "must_enrol"],
    "properties": {
        "token": _TEXT,
        "token_type": {"const": "bearer"},
        "username": _TEXT,
        "expires_at": {"type": "integer", "description": "Unix seconds"},
        "must_change_password": {"type": "boolean"},
        "must_enrol": {"type": "boolean", "description": "a second factor must be set up before anything else"},
    },
}

WHOAMI: dict[str, Any] = {
    "type": "object",
    "required": ["username", "role", "domain", "scopes", "must_change_password"],
    "properties": {
        "username": _TEXT,
        "role": _TEXT,
        "domain": _TEXT,
        "scopes": {
            "anyOf": [{"type": "array", "items": _TEXT}, {"type": "null"}],
            "description": "the only permissions that an API token lends; null for a session, which has all of the role's",
        },
        "must_change_password": {"type": "boolean"},
    },
}

EXAMPLES: dict[type[Any], dict[str, Any]] = {
    Credentials: {"username": "admin", "password": "correct horse battery staple"},
    SecondStep: {"ticket": "Tt2b0Yd1q3n9u1H0u0kqS7fR0w8d6J3m5a4x2c1v0zE", "code": "287082"},
    ActivateTotp: {"code": "287082"},
    ChangePassword: {"current": "correct horse battery staple", "password": "a better one, and longer"},
    CreateUser: {"username": "ada", "email": "ada@example.org", "cpu": 0.5, "memory": "512M", "disk": "1G"},
    ModifyUser: {"full_name": "Ada Lovelace", "memory": "1G", "email": None},
    SetLimits: {"cpu": 2, "memory": "4G"},
    ImportUsers: {"csv": "username,email\nada,ada@example.org\n", "dry_run": True},
    CreateGroup: {"name": "lab", "description": "first floor", "members": []},
    ModifyGroup: {"description": "second floor"},
    AddMembers: {"members": ["ada"]},
    RemoveMembers: {"members": ["ada"]},
    CreateDomain: {"name": "physics", "description": "the department"},
    ModifyDomain: {"policy": "default"},
    CreatePolicy: {"name": "small", "cpu": 0.5, "memory": "512M", "max_cpu": 2},
    ModifyPolicy: {"max_memory": "8G"},
}
"""A body for each of the common changes."""
