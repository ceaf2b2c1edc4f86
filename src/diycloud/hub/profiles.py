"""The sizes of notebook that people may choose (settings: notebooks.profiles)."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from jupyterhub.spawner import SpawnException

from diycloud.config_notebooks import NotebookSettings, Profile


def chosen(settings: NotebookSettings, options: Mapping[str, Any]) -> str:
    """Return the profile that options name, the first without one, empty where there is none. Raises SpawnException.

    options: what a form or a client of the hub's API sent; anything.
    """
    unknown = sorted(options.keys() - {"profile"})
    if unknown:
        raise SpawnException(f"There is no option {unknown[0]!r}. There is: profile.", reason="option")
    name = options.get("profile") or next(iter(settings.offered), "")
    if not isinstance(name, str) or (name and name not in settings.offered):
        raise SpawnException(f"There is no profile {name!r}. {_there_are(settings)}", reason="profile")
    return name


def options_form(settings: NotebookSettings, last: Mapping[str, Any]) -> str:
    """Return the choice as HTML, nothing with fewer than two profiles. last: what was chosen before."""
    if len(settings.offered) < 2:
        return ""
    marked = last.get("profile")
    if marked not in settings.offered:
        marked = next(iter(settings.offered))
    rows = "".join(_row(name, profile, name == marked) for name, profile in settings.offered.items())
    return f'<fieldset class="stack"><legend class="label">Size</legend>{rows}</fieldset>'


def _row(name: str, profile: Profile, marked: bool) -> str:
    bounds = [f"{profile.cpu:g} cores"] if profile.cpu else []
    bounds += [f"{profile.memory} memory"] if profile.memory else []
    said = ", ".join(bounds) or "all that you have"
    title = html.escape(profile.title or name)
    return (
        f'<label class="check"><input type="radio" name="profile" value="{html.escape(name)}"{" checked" if marked else ""}>'
        f'<span><b>{title}</b> <span class="muted">{html.escape(said)}</span></span></label>'
    )


def _there_are(settings: NotebookSettings) -> str:
    return f"There are: {', '.join(settings.offered)}." if settings.offered else "There are none."
