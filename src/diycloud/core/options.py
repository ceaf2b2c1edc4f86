"""What may be chosen at the installation: by option, or unattended by DIYCLOUD_… in the environment."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from diycloud.actions.fields import Username
from diycloud.config import Port
from diycloud.core.names import host_name
from diycloud.errors import InvalidInput


class InstallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be chosen. admin_password: empty makes a one-time password. domain: the name people type.

    without_notebooks, with_notebooks: written into the settings; neither leaves them as they are.
    """

    admin_name: str = "admin"
    admin_password: str = ""
    domain: str = ""
    https_port: Port | None = None
    http_port: Port | None = None
    without_packages: bool = False
    without_notebooks: bool = False
    with_notebooks: bool = False
    dry_run: bool = False
    prefix: str = "/"


def options_from(
    given: Mapping[str, object], environ: Mapping[str, str] = os.environ, read: Callable[[str], str] | None = None
) -> InstallOptions:
    """Return the options: what was given wins, then DIYCLOUD_ADMIN_NAME, DIYCLOUD_HTTPS_PORT and so on.

    given: option names (admin_password_file too) with None for those not given. Raises InvalidInput.
    """
    values: dict[str, object] = {}
    for name in (*InstallOptions.__struct_fields__, "admin_password_file"):
        value = given.get(name)
        if value is None:
            value = environ.get(f"DIYCLOUD_{name.upper()}")
        if value is not None:
            values[name] = value
    file = values.pop("admin_password_file", None)
    if file:
        values["admin_password"] = (read or _read_first_line)(str(file))
    try:
        options = msgspec.convert(values, InstallOptions, strict=False)
        msgspec.convert(options.admin_name, Username)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{error}.", "`diycloud install --help` lists the options.") from error
    return msgspec.structs.replace(options, domain=host_name(options.domain) if options.domain else "")


def _read_first_line(path: str) -> str:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path} cannot be read: {error}.") from error
    if not lines or not lines[0]:
        raise InvalidInput(f"{path} is empty.", "Its first line is the password.")
    return lines[0]
