"""Password hashes and the rules for new passwords."""

from __future__ import annotations

import asyncio
import os
import re
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diycloud.auth.passwords import Hasher, generate_password, weakness
from diycloud.errors import Unavailable


@pytest.fixture
def hasher():
    found = Hasher(threads=1)
    yield found
    found.close()


def test_argon2id_with_the_parameters_that_owasp_names(hasher: Hasher) -> None:
    hashed = asyncio.run(hasher.hash("correct horse battery"))
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert asyncio.run(hasher.verify("correct horse battery", hashed))
    assert not asyncio.run(hasher.verify("correct horse batterY", hashed))


@pytest.mark.parametrize(
    "stored", [None, "", "PLACEHOLDER", "5e884898da28047151d0e56f8dc6292773603d0d", "$argon2id$broken"]
)
def test_what_is_no_hash_matches_nothing(hasher: Hasher, stored: str | None) -> None:
    for password in ("password", stored or ""):
        assert not asyncio.run(hasher.verify(password, stored))


def test_a_full_queue_says_so(hasher: Hasher) -> None:
    async def scenario() -> list[object]:
        crowd = Hasher(threads=1, queue=2)
        answers = await asyncio.gather(*(crowd.verify("x", None) for _ in range(5)), return_exceptions=True)
        again = await crowd.verify("x", None)
        crowd.close()
        return [*answers, again]

    answers = asyncio.run(scenario())
    assert [isinstance(a, Unavailable) for a in answers] == [False, False, True, True, True, False]


def test_hashing_gives_way_to_the_event_loop() -> None:
    async def scenario() -> int:
        hasher = Hasher(threads=1)
        nice = await asyncio.get_running_loop().run_in_executor(
            hasher._threads, lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        )
        hasher.close()
        return nice

    assert asyncio.run(scenario()) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10) or asyncio.run(scenario()) == 10


@pytest.mark.parametrize(
    ("password", "said"),
    [("short", "12 characters"), ("aaaaaaaaaaaaaaaa", "few different"), ("ababababababab", "few different"),
     ("abcdefghijklmnop", "neighbouring"), ("qponmlkjihgfedcba"[1:], "neighbouring"), ("lovelace2024x", "your own name"),
     ("ada@example.org1", "your own name"), ("password1234", "common"), ("P@ssw0rd!2024", "common"),
     ("qwertyqwerty12", "common"), ("1234-Welcome-2026", "common")],
)  # fmt: skip
def test_weak_passwords(password: str, said: str) -> None:
    reason = weakness(password, own=("lovelace", "Ada", "ada@example.org"))
    assert reason and said in reason


@pytest.mark.parametrize(
    "password", ["correct horse battery", "Tr0ub4dor&3xyz", "日本語の長いパスワードです", "lovelace likes engines"]
)
def test_good_passwords(password: str) -> None:
    assert weakness(password, own=("lovelace", "")) is None


def test_generated_passwords_are_good_and_easy_to_read() -> None:
    made = {generate_password() for _ in range(200)}
    assert len(made) == 200
    assert all(weakness(p) is None for p in made)
    assert not re.search("[lI1O0o]", "".join(made))


@given(st.text(max_size=40))
def test_any_text_gets_an_answer(text: str) -> None:
    assert weakness(text, own=(text,)) is None or len(text) <= 40
