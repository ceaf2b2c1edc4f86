"""Where a host name of notebooks' own leads: for `diycloud doctor`, and for whoever has just set it (notebook_steps.py)."""

from __future__ import annotations

from collections.abc import Iterator

from diycloud.core.finding import Finding
from diycloud.core.installation import Installation

_LOOPBACK = frozenset({"127.0.0.1", "127.0.1.1", "::1"})


def examine_own_name(here: Installation) -> Iterator[Finding]:
    """Look whether a host name of notebooks' own leads here, and the portal's, where people are sent to sign in.

    That both are answered, with a certificate that names them, is part of the portal's check.
    """
    host, server = here.settings.notebooks.host, here.settings.server
    if not host:
        return
    yield _leads_here(here, host, "notebooks.host")
    if server.host_name:
        yield _leads_here(here, server.host_name, "server.host_name")
    else:
        detail = f"people are sent from {host} to {server.name} to sign in, which is only what this host calls itself"
        yield Finding("warn", detail, "Set server.host_name to the portal's name that people type.")


def _leads_here(here: Installation, name: str, setting: str) -> Finding:
    lines = here.system.query(["getent", "ahosts", name]).stdout.splitlines()
    leads_to = {line.split()[0] for line in lines if line.strip()}
    if not leads_to:
        advice = "Give it this host's address (DNS, /etc/hosts); right as it is if all who use it know it otherwise."
        return Finding("warn", f"{name} ({setting}) leads nowhere, seen from this host", advice)
    if not leads_to & {*here.identity.addresses, *_LOOPBACK}:
        detail = f"{name} ({setting}) leads to {', '.join(sorted(leads_to))}, which is no address of this host"
        return Finding(
            "warn", detail, "Right where something in front of this host hands on; else change where it leads."
        )
    if leads_to <= _LOOPBACK:
        return Finding(
            "ok", f"{name} leads to this host, seen from itself (whether it does elsewhere is not told by that)"
        )
    return Finding("ok", f"{name} leads to this host")
