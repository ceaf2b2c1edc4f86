"""Where a user may come from: the networks of `allowed_client_ip`."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@lru_cache(maxsize=4096)
def _networks(text: str) -> tuple[Network, ...] | None:
    """Return the networks of a column, None if somebody wrote there what is none."""
    try:
        return tuple(ipaddress.ip_network(part, strict=False) for part in text.replace(",", " ").split())
    except ValueError:
        return None


def readable(networks: str) -> bool:
    """Tell whether a column holds nothing but networks."""
    return _networks(networks) is not None


@lru_cache(maxsize=16384)
def allows(networks: str, address: str) -> bool:
    """Tell whether a user whose column holds these networks may come from an address; empty means from anywhere.

    An address that nobody knows, and a column that cannot be read, are not allowed: the safe side.
    """
    if not networks.strip():
        return True
    known = _networks(networks)
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return known is not None and any(found in network for network in known)
