"""Configuration files from templates/, which hold text and no decisions."""

from __future__ import annotations

import functools

import jinja2


@functools.cache
def _environment() -> jinja2.Environment:
    # No HTML here: nothing to escape for. Values are quoted by whoever knows the file's syntax.
    return jinja2.Environment(
        loader=jinja2.PackageLoader("diycloud", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: object) -> str:
    """Return a template's text with its values. A missing value is an error."""
    return _environment().get_template(template).render(**values)
