"""Sizes and cores: what is written comes back, what is no size is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diycloud.errors import InvalidInput
from diycloud.units import (
    MAX_SIZE,
    cpu_max,
    cpu_quota_us,
    cpu_shares,
    cpu_weight,
    format_size,
    human_size,
    parse_size,
)


@given(st.integers(1, MAX_SIZE))
def test_what_is_formatted_is_parsed_back(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(st.integers(1, 1 << 20), st.sampled_from("KMGT"), st.sampled_from(["", "B", "iB", "b", "ib"]))
def test_case_and_suffix_do_not_matter(number: int, unit: str, suffix: str) -> None:
    value = number << {"K": 10, "M": 20, "G": 30, "T": 40}[unit]
    assert parse_size(f"{number}{unit}{suffix}") == parse_size(f"{number} {unit.lower()}{suffix}") == value


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_refused(text: str) -> None:
    try:
        value = parse_size(text, bare="M")
    except InvalidInput as error:
        assert error.message
    else:
        assert 0 < value <= MAX_SIZE


@pytest.mark.parametrize(
    ("text", "value"),
    [("2048M", 2 << 30), ("1.5G", 3 << 29), ("512k", 512 << 10), ("1T", 1 << 40), ("7B", 7), ("0.5K", 512)],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


def test_the_largest_exact_unit_is_shown() -> None:
    assert [format_size(v) for v in (2 << 30, 3 << 29, 1 << 40, 1023, 1025 << 10, 0)] == [
        "2G", "1536M", "1T", "1023B", "1025K", "0B",
    ]  # fmt: skip


def test_a_bare_number_needs_a_unit_unless_one_is_given() -> None:
    assert parse_size("512", bare="M") == 512 << 20
    with pytest.raises(InvalidInput, match="no unit"):
        parse_size("512")


@pytest.mark.parametrize(
    "text",
    ["", " ", "G", "-1G", "+1G", "1e3M", "0", "0M", "1.0000001K", "0.3B", "1P", "1GG", "1G ", "1G\n", "1_000M", "١G",
     "1,5G", "9" * 16 + "T", "2000000T", "inf", "nan", "0x10M", "1 MB x"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text, bare="M")


def test_sizes_for_the_eye() -> None:
    assert [human_size(v) for v in (0, 999, 1536, 1 << 30, 1.44 * (1 << 30))] == ["0B", "999B", "1.5K", "1G", "1.4G"]


def test_cores_as_the_kernel_takes_them() -> None:
    assert (cpu_max(0.5), cpu_max(2.5), cpu_max(1, period_us=50_000)) == (
        "50000 100000",
        "250000 100000",
        "50000 50000",
    )
    assert cpu_quota_us(0.01) == 1000
    with pytest.raises(InvalidInput, match="too little"):
        cpu_quota_us(0.009)


@given(st.floats(0.01, 4096))
def test_weights_stay_within_the_kernels_bounds(cores: float) -> None:
    assert 1 <= cpu_weight(cores) <= 10_000
    assert 2 <= cpu_shares(cores) <= 262_144
