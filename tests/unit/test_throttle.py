"""Throttling with a clock of the test's own: guessing slows down, and nobody is locked out by others."""

from __future__ import annotations

import pytest

from diycloud.auth import throttle
from diycloud.auth.throttle import Throttle
from diycloud.errors import TooManyRequests


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> Throttle:
    return Throttle(clock)


def wait(gate: Throttle, name: str, address: str, known: str | None = None) -> int:
    """Return how long a sign-in would have to wait."""
    try:
        gate.check(name, address, known_address=known)
    except TooManyRequests as error:
        return error.retry_after
    return 0


def fail(gate: Throttle, name: str, address: str, times: int = 1) -> None:
    for _ in range(times):
        gate.failed(name, address)


def test_a_few_mistypings_cost_nothing(gate: Throttle) -> None:
    fail(gate, "ada", "192.0.2.1", 4)
    assert wait(gate, "ada", "192.0.2.1") == 0


def test_the_delay_grows_and_ends(gate: Throttle, clock: Clock) -> None:
    delays = []
    fail(gate, "ada", "192.0.2.1", 5)
    for _ in range(14):
        delays.append(wait(gate, "ada", "192.0.2.1"))
        clock.now += delays[-1]
        assert wait(gate, "ada", "192.0.2.1") == 0
        fail(gate, "ada", "192.0.2.1")
    assert delays == sorted(delays) and delays[0] <= 2 and delays[-1] <= 901
    clock.now += 901
    assert wait(gate, "ada", "192.0.2.1") == 0


def test_success_forgets_the_mistypings(gate: Throttle) -> None:
    fail(gate, "ada", "192.0.2.1", 6)
    gate.succeeded("ada", "192.0.2.1")
    assert wait(gate, "ada", "192.0.2.1") == 0


def test_what_is_taken_back_was_never_counted(gate: Throttle) -> None:
    for number in range(200):
        fail(gate, f"user{number % 3}", "192.0.2.1")
        gate.succeeded(f"user{number % 3}", "192.0.2.1") if number % 2 else gate.uncount(
            f"user{number % 3}", "192.0.2.1"
        )
    assert wait(gate, "user0", "192.0.2.1") == 0


def test_a_stranger_cannot_lock_the_real_user_out(gate: Throttle, clock: Clock) -> None:
    """However many addresses a stranger has: from the last good address one gets in at once, from others soon."""
    for host in range(2000):
        fail(gate, "ada", f"198.51.{host // 250}.{host % 250}", 5)
    assert wait(gate, "ada", "192.0.2.1", known="192.0.2.1") == 0
    assert 0 < wait(gate, "ada", "192.0.2.9", known="192.0.2.1") <= 16
    clock.now += 16
    assert wait(gate, "ada", "192.0.2.9", known="192.0.2.1") == 0


def test_one_address_that_tries_many_accounts_is_slowed_and_others_are_not(gate: Throttle) -> None:
    for number in range(110):
        fail(gate, f"user{number}", "198.51.100.7")
    assert wait(gate, "somebody", "198.51.100.7") > 0
    assert wait(gate, "somebody", "198.51.100.8") == 0


def test_a_class_that_mistypes_behind_one_address_gets_in(gate: Throttle) -> None:
    for number in range(200):
        name = f"pupil{number}"
        fail(gate, name, "198.51.100.7", number % 4)
        assert wait(gate, name, "198.51.100.7") == 0, number
        gate.failed(name, "198.51.100.7")  # ahead, as every sign-in
        gate.succeeded(name, "198.51.100.7")
    fail(gate, "somebody", "198.51.100.7", 4)
    assert wait(gate, "another", "198.51.100.7") == 0


def test_who_guesses_is_let_off_nothing_by_getting_in_themselves(gate: Throttle) -> None:
    for number in range(110):
        fail(gate, f"user{number}", "198.51.100.7")
        gate.failed("mallory", "198.51.100.7")
        gate.succeeded("mallory", "198.51.100.7")
    assert wait(gate, "somebody", "198.51.100.7") > 0


def test_an_ipv6_customer_is_one_visitor(gate: Throttle) -> None:
    for number in range(6):
        fail(gate, "ada", f"2001:db8:1:2::{number:x}")
    assert wait(gate, "ada", "2001:db8:1:2:ffff::1") > 0
    assert wait(gate, "ada", "2001:db8:1:3::1") == 0


def test_what_is_no_address_is_no_crash(gate: Throttle) -> None:
    for address in ("", "unknown", "1.2.3.4, 5.6.7.8", "x" * 64):
        fail(gate, "ada", address, 6)
        assert wait(gate, "ada", address) > 0


def test_an_administrator_can_clear_it(gate: Throttle) -> None:
    for host in range(30):
        fail(gate, "ada", f"198.51.100.{host}", 6)
    fail(gate, "ada-two", "198.51.100.1", 6)
    gate.clear("ada")
    assert wait(gate, "ada", "203.0.113.1") == 0
    assert wait(gate, "ada-two", "203.0.113.1") == 0
    assert wait(gate, "ada-two", "198.51.100.1") > 0, "a name that begins alike is another"


def test_old_failures_are_forgotten(gate: Throttle, clock: Clock) -> None:
    fail(gate, "ada", "192.0.2.1", 12)
    clock.now += 3601
    fail(gate, "ada", "192.0.2.1")
    assert wait(gate, "ada", "192.0.2.1") == 0


def test_memory_is_bounded(gate: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MAX_ENTRIES", 300)
    for number in range(1000):
        fail(gate, f"user{number}", f"198.51.{number // 250}.{number % 250}")
    assert len(gate._counts) <= 300
