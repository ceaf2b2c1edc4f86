"""What the password hashes alone cost, so that they can be set apart from the work of creating a user."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

WORDS = "ours: argon2id (m 19 MiB, t 2, p 1), beside it the shadow hash; shell: the shadow hash, by chpasswd"
_PASSWORD = "correct horse battery"


def shadow() -> Callable[[], object]:
    """Return what makes one crypt(3) hash by the library's default method (yescrypt on Debian)."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_gensalt.restype = ctypes.c_char_p
    library.crypt.restype = ctypes.c_char_p
    setting = library.crypt_gensalt(None, 0, None, 0)
    return lambda: library.crypt(_PASSWORD.encode(), setting)


def argon2() -> Callable[[], object]:
    """Return what makes one argon2id hash with the platform's parameters."""
    from diycloud.auth.passwords import hash_password

    return lambda: hash_password(_PASSWORD)
