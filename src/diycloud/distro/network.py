"""The host's own name and addresses, from /proc, without asking the network.

Sources: proc(5) for /proc/net/route; the kernel's fib_trie listing, where each `/32 host LOCAL` is an own address;
/proc/net/if_inet6 for IPv6.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import NamedTuple

from diycloud.system import System

_LOCAL = re.compile(r"\|-- (\d+\.\d+\.\d+\.\d+)\n\s+/32 host LOCAL")
_GLOBAL_SCOPE = "00"


class Identity(NamedTuple):
    """name: the host's name; addresses: its own ones, that of the default route first, loopback left out."""

    name: str
    addresses: tuple[str, ...]


def read_identity(system: System) -> Identity:
    """Read the host's name and addresses."""
    name = (system.read("/proc/sys/kernel/hostname") or "localhost").strip()
    v4 = parse_fib_trie(system.read("/proc/net/fib_trie") or "")
    default = parse_default_network(system.read("/proc/net/route") or "")
    if default is not None:
        v4.sort(key=lambda address: ipaddress.IPv4Address(address) not in default)
    return Identity(name, (*v4, *parse_if_inet6(system.read("/proc/net/if_inet6") or "")))


def parse_fib_trie(text: str) -> list[str]:
    """Return the IPv4 addresses of the host itself, without loopback."""
    found = dict.fromkeys(match[1] for match in _LOCAL.finditer(text))
    return [address for address in found if not ipaddress.IPv4Address(address).is_loopback]


def parse_default_network(text: str) -> ipaddress.IPv4Network | None:
    """Return the network on the link of the default route."""
    rows = [line.split() for line in text.splitlines()[1:] if line.strip()]
    link = next((row[0] for row in rows if row[1] == "00000000" and row[7] == "00000000"), None)
    row = next((row for row in rows if row[0] == link and row[1] != "00000000" and row[2] == "00000000"), None)
    return None if row is None else ipaddress.IPv4Network((_address(row[1]), str(_address(row[7]))))


def parse_if_inet6(text: str) -> list[str]:
    """Return the global IPv6 addresses."""
    rows = [line.split() for line in text.splitlines()]
    return [str(ipaddress.IPv6Address(int(row[0], 16))) for row in rows if len(row) == 6 and row[3] == _GLOBAL_SCOPE]


def _address(word: str) -> ipaddress.IPv4Address:
    """Return an address of /proc/net/route, which prints them in the machine's byte order."""
    return ipaddress.IPv4Address(struct.pack("=I", int(word, 16)))
