"""What the password hashes alone cost, so that they can be set apart from the work of creating a user."""

from __future__ import annotations

import ctypes
import statistics
from concurrent.futures import ThreadPoolExecutor

from tests.bench.harness import milliseconds

WORDS = "ours: argon2id (m 19 MiB, t 2, p 1) and the shadow hash side by side; shell: the shadow hash, by chpasswd"
_SAMPLES = 15
_PASSWORD = b"correct horse battery"


def shadow_ms() -> float:
    """Return the median time of one crypt(3) hash by the library's default method, in ms (yescrypt on Debian)."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt_gensalt.restype = ctypes.c_char_p
    library.crypt.restype = ctypes.c_char_p
    setting = library.crypt_gensalt(None, 0, None, 0)
    return statistics.median(milliseconds(lambda: library.crypt(_PASSWORD, setting)) for _ in range(_SAMPLES))


def argon2_ms() -> float:
    """Return the median time of one argon2id hash with the platform's parameters, in ms."""
    from argon2.low_level import Type, hash_secret

    def act() -> None:
        hash_secret(_PASSWORD, b"0123456789abcdef", 2, 19 * 1024, 1, 32, Type.ID)

    return statistics.median(milliseconds(act) for _ in range(_SAMPLES))


def both_ms() -> float:
    """Return the time of the longer of the two hashes: the platform makes them side by side.

    What running them one after the other would cost more is counted as the platform's own time.
    """
    with ThreadPoolExecutor(1) as pool:  # one at a time: neither disturbs the other
        return max(pool.submit(shadow_ms).result(), pool.submit(argon2_ms).result())
