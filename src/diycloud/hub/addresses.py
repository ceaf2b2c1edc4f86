"""Where the hub's pages and programs in notebooks find the portal and the hub."""

from __future__ import annotations

from diycloud.config import Settings

BASE = "/jupyter/"


def portal(settings: Settings) -> str:
    """Return where pages of the hub's find the portal, with a slash at the end: the name they came by, or its own."""
    return settings.server.address if settings.notebooks.host else "/"


def environment(settings: Settings) -> dict[str, str]:
    """Return what programs in notebooks are told."""
    hub = settings.notebooks_address or settings.server.address.rstrip("/")
    return {"JUPYTERHUB_PUBLIC_HUB_URL": f"{hub}{BASE}hub/", "JUPYTERHUB_PORTAL_URL": settings.server.address}
