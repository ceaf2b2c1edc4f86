"""What people read of the program that somebody signed in with."""

from __future__ import annotations

import pytest

from diycloud.auth.devices import describe

WEBKIT = "AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {WEBKIT} Chrome/139.0 Safari/537.36 Edg/139.0", "Edge on Windows"),
        (f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {WEBKIT} Version/18.0 Safari/605.1.15", "Safari on macOS"),
        (f"Mozilla/5.0 (Linux; Android 15; Pixel 9) {WEBKIT} Chrome/139.0 Mobile Safari/537.36", "Chrome on Android"),
        (
            f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) {WEBKIT} CriOS/139.0 Safari/604.1",
            "Chrome on iPhone",
        ),
        ("diycloud/0.1.0", "diycloud"),
        ("curl/8.5.0", "curl"),
        ("python-httpx/0.28", "Python"),
        ("", "an unknown program"),
        ("<script>alert(1)</script>", "an unknown program"),
    ],
)
def test_devices_have_plain_names(agent: str, words: str) -> None:
    assert describe(agent) == words
