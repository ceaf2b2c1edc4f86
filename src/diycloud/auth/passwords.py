"""Password hashes (argon2id) and the rules a new password must keep."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import ParamSpec, TypeVar

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id, verify

from diycloud.auth.common import is_listed
from diycloud.errors import Unavailable

P = ParamSpec("P")
T = TypeVar("T")

MEMORY, PASSES = 19 << 20, 2
"""Bytes and passes of argon2id, on one lane: OWASP Password Storage Cheat Sheet."""
QUEUE = 128
"""Hashes that may wait for a thread, some two seconds of its work: a class that signs in at once waits, and gets in."""
OLD = "sha256$"
"""Begins an unsalted SHA-256 of an old database (users/legacy.py)."""
MIN_LENGTH = 12
"""Unless server.password_min_length says another."""
_ALPHABET = (
    "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # without l I 1 O 0 o: read aloud, typed from paper
)


class Hasher:
    """argon2id in as many threads as cores, a little nicer than the event loop, with a bounded queue.

    queue: how many may wait or be made, QUEUE for each thread unless given. Raises Unavailable when it is full.
    """

    def __init__(self, *, threads: int | None = None, queue: int | None = None) -> None:
        cores = threads or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(cores, "argon2", initializer=_be_nice)
        self._most = self._free = queue or cores * QUEUE
        self._nobody = hash_password(secrets.token_hex())

    async def hash(self, password: str) -> str:
        """Return the argon2id hash of a password."""
        return await self._queued(hash_password, password)

    async def hash_many(self, passwords: list[str]) -> list[str]:
        """Return the hashes of a batch; it counts as one in the queue."""
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(self._threads, hash_password, p) for p in passwords)))

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Tell whether a password matches. hashed None (no such user) takes the same time."""
        stored = hashed if hashed and hashed.startswith("$argon2") else self._nobody
        right = await self._queued(matches, password, stored) and hashed is not None
        return matches_old(password, hashed) if hashed and hashed.startswith(OLD) else right

    async def _queued(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._free <= 0:
            raise Unavailable("Too many sign-ins at once.", "Try again in a second.")
        self._free -= 1
        try:
            job = functools.partial(fn, *args, **kwargs)
            return await asyncio.get_running_loop().run_in_executor(self._threads, job)
        finally:
            self._free += 1

    @property
    def queued(self) -> int:
        """How many wait or are being made."""
        return self._most - self._free

    def close(self) -> None:
        self._threads.shutdown()


def hash_password(password: str) -> str:
    """Return the argon2id hash of a password, with a fresh salt. Takes some 13 ms of a core; safe in threads."""
    return argon2id.str(password.encode(), opslimit=PASSES, memlimit=MEMORY).decode()


def matches(password: str, hashed: str) -> bool:
    """Tell whether a password matches an argon2 hash, whatever its parameters. False for what is no hash."""
    try:
        return verify(hashed.encode(), password.encode())
    except CryptoError:  # wrong, no hash by its prefix, or too long for one
        return False


def matches_old(password: str, hashed: str) -> bool:
    """Tell whether a password matches an old database's sum: the first sign-in puts a hash in its place."""
    return hmac.compare_digest(f"{OLD}{hashlib.sha256(password.encode()).hexdigest()}".encode(), hashed.encode())


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, 10)  # on Linux 0 is the calling thread


def generate_password(length: int = 16) -> str:
    """Return a random password that is easy to read and type (about 5.8 bits a character)."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def weakness(password: str, *, own: tuple[str, ...] = (), min_length: int = MIN_LENGTH) -> str | None:
    """Return why a password is too weak, None if it is not. own: the person's names and address.

    Length and closeness to the person's own data count, composition does not (NIST SP 800-63B, 3.1.1.2).
    """
    if len(password) < min_length:
        return f"at least {min_length} characters"
    lower = password.lower()
    if len(set(lower)) < 5:
        return "more than a few different characters"
    if _is_run(lower):
        return "not a row of neighbouring characters"
    if _is_common(lower):
        return "not a common password with digits or signs around it"
    for word in own:
        for part in (word, word.partition("@")[0]):
            if len(part) >= 4 and part.lower() in lower and len(lower.replace(part.lower(), "")) < MIN_LENGTH - 4:
                return "not mostly your own name or address"
    return None


_COMMON_WORDS = """
password passwort passwd letmein welcome qwerty qwertz azerty asdfgh zxcvbn iloveyou admin administrator changeme
secret default master dragon monkey football baseball sunshine princess superman batman trustno hello login
abc test guest root user student teacher class summer winter spring autumn january monday computer internet
linux ubuntu debian docker jupyter notebook server cloud diycloud university school company
"""
_COMMON = frozenset(_COMMON_WORDS.split())
"""What guesses at a place like this begin with; the long lists (auth/common.py) know people's words in general."""
_LOOKALIKE = str.maketrans("013457@$!", "oieastasi")
_AROUND = re.compile(r"\A[^a-z]+|[^a-z]+\Z")


def _is_common(lower: str) -> bool:
    """Tell whether a password is one common word, perhaps repeated or written 1ike th1s, with digits and signs around."""
    core = _AROUND.sub("", lower)
    units = set()
    for text in (core, core.translate(_LOOKALIKE)):
        letters = "".join(c for c in text if c.isalpha())
        units |= {_unit(text), _unit(letters)}
    return not units.isdisjoint(_COMMON) or is_listed(lower, _unit(lower), *units)


def _unit(text: str) -> str:
    """Return what a text repeats, the text itself if nothing: dragondragon is a dragon."""
    return text[: (text + text).find(text, 1)]


def _is_run(text: str) -> bool:
    steps = {ord(b) - ord(a) for a, b in pairwise(text)}
    return len(steps) == 1
