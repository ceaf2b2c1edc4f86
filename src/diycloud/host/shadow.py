"""Password hashes for /etc/shadow, by the host's own method and its own libcrypt.

Python's crypt module is gone since 3.13, so libcrypt is called through ctypes, which releases the interpreter's lock:
as many threads as cores hash side by side. Methods and settings: crypt(5), crypt(3), login.defs(5), pam_unix(8).
"""

from __future__ import annotations

import ctypes
import hmac
import re
import secrets
from functools import lru_cache

from diycloud.errors import InvalidInput, Unsupported
from diycloud.system.contract import System

METHODS = {
    "yescrypt": "$y$",
    "gost_yescrypt": "$gy$",
    "gost-yescrypt": "$gy$",
    "blowfish": "$2b$",
    "bcrypt": "$2b$",
    "sha512": "$6$",
    "sha256": "$5$",
}
"""Names in login.defs (any case) and options of pam_unix → prefix. Weaker methods of a host (DES, MD5) are not used."""

COST = {"$y$": 5, "$gy$": 5, "$2b$": 10, "$6$": 50_000, "$5$": 50_000}
"""The cost given to the method: each takes about 20 ms of a core (bcrypt 60); libcrypt's own for SHA would take 2."""

MAX_PHRASE = 512
"""libcrypt's CRYPT_MAX_PASSPHRASE_SIZE (bytes)."""

PAM_FILES = ("/etc/pam.d/common-password", "/etc/pam.d/system-auth")
_LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")
_OUTPUT = 384
_SCRATCH = 256 * 1024
"""Bytes of work space: glibc's struct crypt_data has 131,232, libxcrypt's 32,768, musl's 260."""
_SALT = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAM_UNIX = re.compile(r"^-?password\s.*\bpam_unix\.so\b(.*)$", re.MULTILINE)
_LOGIN_DEFS = re.compile(r"^\s*ENCRYPT_METHOD\s+(\S+)", re.MULTILINE)


def read_method(system: System) -> str:
    """Return the prefix of the method `passwd` uses on this host: pam_unix's option, else login.defs, else yescrypt.

    A method that the host's libcrypt cannot do gives way to SHA-512, which all can (musl has no yescrypt).
    """
    names: list[str] = []
    for path in PAM_FILES:
        for options in _PAM_UNIX.findall(system.read(path) or ""):
            names += options.split()
    names += _LOGIN_DEFS.findall(system.read("/etc/login.defs") or "")
    wanted = next((METHODS[name.lower()] for name in names if name.lower() in METHODS), "$y$")
    return wanted if supports(wanted) else "$6$"


@lru_cache(maxsize=16)
def supports(prefix: str) -> bool:
    """Tell whether the host's libcrypt makes hashes of this prefix."""
    try:
        hash_password("probe", prefix)
    except Unsupported:
        return False
    return True


def hash_password(password: str, prefix: str) -> str:
    """Return the crypt(5) hash of a password, with a fresh salt. Takes some 20 ms of a core; safe in threads.

    Raises InvalidInput for what crypt(3) would cut or refuse, Unsupported if libcrypt does not know the method.
    """
    phrase = password.encode("utf-8", "surrogatepass")
    if not phrase or len(phrase) > MAX_PHRASE or any(byte in phrase for byte in b"\0\r\n"):
        raise InvalidInput(
            "The password cannot be used on the host.", f"1–{MAX_PHRASE} bytes, without line breaks or NUL."
        )
    setting = _setting(_libcrypt(), prefix)
    hashed = _crypt(phrase, setting)
    # A failure is NULL or a text that starts with `*`, by the library's age (crypt(3), "RETURN VALUE").
    if not hashed.startswith(prefix) or len(hashed) < len(setting) + 20:
        raise Unsupported(f"The host's libcrypt cannot make {prefix} hashes.")
    return hashed


def _crypt(phrase: bytes, setting: bytes) -> str:
    """Return what crypt_r(3) makes of a phrase; empty if it fails."""
    scratch = ctypes.create_string_buffer(_SCRATCH)
    crypt_r = _libcrypt().crypt_r
    crypt_r.restype = ctypes.c_char_p
    crypt_r.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
    made: bytes | None = crypt_r(phrase, setting, scratch)
    return (made or b"").decode("ascii", "replace")


def verify_password(password: str, field: str) -> bool:
    """Tell whether a password is the one of a shadow field. False for a field that no password fits.

    A hash of crypt(5) is its own setting: made again with it, the same comes out.
    """
    phrase = password.encode("utf-8", "surrogatepass")
    if not field.startswith("$") or not phrase or len(phrase) > MAX_PHRASE or b"\0" in phrase:
        return False
    made = _crypt(phrase, field.encode("utf-8", "surrogatepass"))
    return hmac.compare_digest(made, field)


@lru_cache(maxsize=1)
def _libcrypt() -> ctypes.CDLL:
    for name in (*_LIBRARIES, None):
        try:
            library = ctypes.CDLL(name, use_errno=True)
            library.crypt_r  # noqa: B018  # musl has it in libc itself, which is name None
        except (OSError, AttributeError):
            continue
        return library
    raise Unsupported("There is no libcrypt on this host.", "Install the package libcrypt1 or libxcrypt.")


def _setting(library: ctypes.CDLL, prefix: str) -> bytes:
    """Return salt and parameters for crypt: by crypt_gensalt_rn (libxcrypt), or put together where that is plain."""
    cost = COST[prefix]
    try:
        gensalt = library.crypt_gensalt_rn
    except AttributeError:
        return _plain_setting(prefix, cost)
    gensalt.restype = ctypes.c_char_p
    gensalt.argtypes = [ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    output = ctypes.create_string_buffer(_OUTPUT)
    made: bytes | None = gensalt(prefix.encode(), cost, None, 0, output, _OUTPUT)
    if made is None:
        raise Unsupported(f"The host's libcrypt cannot make {prefix} hashes.")
    return bytes(made)


def _plain_setting(prefix: str, cost: int) -> bytes:
    """Return a setting for a libcrypt without crypt_gensalt (musl, old glibc)."""
    if prefix in ("$5$", "$6$"):
        salt = "".join(secrets.choice(_SALT) for _ in range(16))
        return f"{prefix}rounds={cost}${salt}$".encode()
    if prefix == "$2b$":
        # 22 characters carry 128 bits, so of the last only `.Oeu` have no bit to spare.
        salt = "".join(secrets.choice(_SALT) for _ in range(21)) + secrets.choice(".Oeu")
        return f"{prefix}{cost:02d}${salt}".encode()
    raise Unsupported(f"The host's libcrypt cannot make {prefix} hashes.")
