"""What can be done with notebook servers: data and permission, nothing else. How: notebooks/service.py."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from diycloud.actions.action import Action, Audited, Permission, action
from diycloud.actions.fields import Flag, Username
from diycloud.notebooks.models import Notebooks, Started, Stopped

ServerName = Annotated[
    str,
    Meta(
        pattern=r"\A([a-z0-9-]{1,30})?\Z",
        extra={
            "rule": "1–30 characters: a–z, 0–9 and -; empty for the first server",
            "help": "name of the server; none: the first",
        },
    ),
]
ProfileName = Annotated[
    str,
    Meta(
        pattern=r"\A([a-z0-9][a-z0-9-]{0,29})?\Z",
        extra={
            "rule": "one of the profiles of the settings; empty: as the last time, else the first of them",
            "help": "its size: one of the profiles; none: as the last time",
        },
    ),
]


@action("notebook.list", needs=Permission.NOTEBOOKS_READ, audited=Audited.NO)
class ListNotebooks(Action[Notebooks], frozen=True):
    """Show a user's notebook servers, what they use, and why one failed."""

    username: Username


@action("notebook.start", needs=Permission.NOTEBOOKS_START)
class StartNotebook(Action[Started], frozen=True):
    """Start a notebook server of your own."""

    username: Username
    server_name: ServerName = ""
    profile: ProfileName = ""


@action("notebook.stop", needs=Permission.NOTEBOOKS)
class StopNotebook(Action[Stopped], frozen=True):
    """Stop a notebook server with everything that was started in it; what is not saved there is lost."""

    username: Username
    server_name: ServerName = ""
    everything: Annotated[Flag, Meta(extra={"help": "all of the user's servers"})] = False
