"""Names in the settings that more than one section has, or that are told of in words (config_words.py)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_SMALL = r"(?!-)[a-z0-9-]{1,63}(?<!-)"
_ANY = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"

HostName = Annotated[str, Meta(pattern=rf"\A(?!(.*\.)?[0-9]+\Z)({_SMALL}(\.{_SMALL})*)?\Z", max_length=253)]
"""In small letters, without a port. No address: browsers take a name whose last part is a number for one. Empty: none."""
NameOrAddress = Annotated[str, Meta(pattern=rf"\A({_ANY}(\.{_ANY})*|[0-9A-Fa-f:.]{{2,45}})?\Z", max_length=253)]
"""A host name, or an address of IPv4 or IPv6; without a port. Empty: none."""
Folder = Annotated[str, Meta(pattern=r"\A(/[A-Za-z0-9_.@+-]+)+\Z")]
"""A folder's whole path."""
Account = Annotated[str, Meta(pattern=r"\A[a-z_][a-z0-9_-]{0,31}\Z")]
"""A POSIX account's name."""
