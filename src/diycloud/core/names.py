"""Host names and addresses as people give them. What passes here may stand in a certificate and in Nginx's settings."""

from __future__ import annotations

import ipaddress
import re

from diycloud.errors import InvalidInput

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\Z")


def host_name(text: str) -> str:
    """Return a host name in lower case, in its ASCII form (RFC 5890), or an IP address in its canonical form.

    Raises InvalidInput for anything else.
    """
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        name = text.encode("idna").decode().lower().rstrip(".")
    except UnicodeError:
        name = ""
    if len(name) > 253 or not _NAME.match(name):
        raise InvalidInput(f"{text[:80]!r} is no host name or address.", "Write it like cloud.example.org.")
    return name


def is_address(name: str) -> bool:
    """Tell whether a checked name is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def in_url(name: str) -> str:
    """Return a checked name as a URL takes it: IPv6 addresses in brackets."""
    return f"[{name}]" if ":" in name else name
