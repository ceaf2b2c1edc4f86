"""What differs between families only by value: names and paths, kept as data in families.toml."""

from __future__ import annotations

import functools
import tomllib
from importlib import resources

import msgspec

from diycloud.errors import Unsupported

FAMILIES = ("debian", "rhel", "arch", "suse", "alpine")


class NginxLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a family's Nginx looks.

    sites: folder a site's file is written to; enabled: folder of links to it, empty where `sites` itself is included.
    suffix: what the include pattern wants a file's name to end in. default_site: the distribution's own first site.
    """

    binary: str
    config: str
    user: str
    group: str
    sites: str
    enabled: str = ""
    suffix: str = ""
    default_site: str = ""


class Family(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One family. ids: os-release IDs placed by themselves; packages: generic name → the family's names."""

    ids: tuple[str, ...]
    package_tool: tuple[str, ...]
    """In order of preference; the first whose program is there is used."""
    nologin: str
    supported_from: dict[str, str]
    """ID → the least VERSION_ID; empty for a rolling one."""
    nginx: NginxLayout
    packages: dict[str, tuple[str, ...]]
    services: dict[str, str]
    binaries: dict[str, str]
    without_python: dict[str, str] = {}
    """ID → the least VERSION_ID that works with a private Python only, as its packages have none that is new enough."""

    def package_names(self, generic: str) -> tuple[str, ...]:
        """Return the family's packages for a generic name; empty if another package brings it along.

        Raises Unsupported for a name that is not in the table.
        """
        if generic not in self.packages:
            raise Unsupported(f"There is no package for {generic!r} in the table of this family of distributions.")
        return self.packages[generic]

    def service_name(self, generic: str) -> str:
        """Return the family's name of a service such as `sshd`. Raises Unsupported if it is not in the table."""
        if generic not in self.services:
            raise Unsupported(f"There is no service {generic!r} in the table of this family of distributions.")
        return self.services[generic]


@functools.cache
def _all() -> dict[str, Family]:
    text = resources.files("diycloud.distro").joinpath("families.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Family])


def family(name: str) -> Family:
    """Return the table of a family. Raises Unsupported for an unknown one."""
    if name not in _all():
        raise Unsupported(f"{name!r} is no family of distributions.", f"There are {', '.join(FAMILIES)}.")
    return _all()[name]


def family_of_id(distribution: str) -> str | None:
    """Return the family that an os-release ID belongs to by itself."""
    return next((name for name, row in _all().items() if distribution in row.ids), None)
