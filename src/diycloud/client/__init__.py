"""The Python client: the same actions as everywhere, run on a server from anywhere.

    from diycloud.client import Cloud
    from diycloud.users.actions import CreateUser

    with Cloud.connect() as cloud:  # as `diycloud login` signed in, or as root on the server
        print(cloud.run(CreateUser(username="ada", cpu=0.5)).password)

The actions are where they are declared: diycloud.users.actions and its like, all of them in docs/reference/actions.md.
Needs nothing but Python and msgspec. How to: docs/how-to/scripting.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diycloud.client.bulk import Progress, Report, Row, print_progress
    from diycloud.client.cloud import Answer, Cloud
    from diycloud.units import parse_size

__all__ = ["Answer", "Cloud", "Progress", "Report", "Row", "parse_size", "print_progress"]

_FROM = {
    "Answer": "client.cloud",
    "Cloud": "client.cloud",
    "Progress": "client.bulk",
    "Report": "client.bulk",
    "Row": "client.bulk",
    "parse_size": "units",
    "print_progress": "client.bulk",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is asked for (PEP 562): the command line needs a part of this room only, and quickly."""
    if name not in _FROM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"diycloud.{_FROM[name]}"), name)
