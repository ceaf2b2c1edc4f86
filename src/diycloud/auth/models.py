"""What belongs to signing in, as others see it."""

from __future__ import annotations

import msgspec


class Key(msgspec.Struct, frozen=True):
    """An SSH public key. fingerprint: as `ssh-keygen -l` shows it; line: as authorized_keys takes it."""

    fingerprint: str
    type: str
    comment: str
    line: str


class KeyList(msgspec.Struct, frozen=True):
    """A user's SSH keys, and what people should know about a change of them."""

    username: str
    keys: list[Key]
    warnings: tuple[str, ...] = ()
