"""What somebody signed in with, in plain words: `Firefox on Linux`, of the User-Agent field that their program sent.

Anybody can send any text there (RFC 9110, 10.1.5), so it helps people to know their own devices again and proves nothing.
"""

from __future__ import annotations

_PROGRAMS = (
    ("Edg", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser/", "Samsung Internet"), ("FxiOS/", "Firefox"),
    ("Firefox/", "Firefox"), ("CriOS/", "Chrome"), ("Chrome/", "Chrome"), ("Safari/", "Safari"),
    ("diycloud", "diycloud"), ("curl/", "curl"), ("Wget/", "wget"), ("python", "Python"),
)  # fmt: skip
"""What stands in the field, and whose it is; the first counts, as each browser names those it wants to pass for."""
_SYSTEMS = (
    ("Android", "Android"), ("iPhone", "iPhone"), ("iPad", "iPad"), ("CrOS", "ChromeOS"), ("Windows", "Windows"),
    ("Mac OS X", "macOS"), ("Linux", "Linux"),
)  # fmt: skip
UNKNOWN = "an unknown program"


def describe(user_agent: str) -> str:
    """Return the program and the system of a User-Agent field, as far as they are known."""
    lower = user_agent.lower()
    program = next((name for mark, name in _PROGRAMS if mark.lower() in lower), UNKNOWN)
    system = next((name for mark, name in _SYSTEMS if mark.lower() in lower), "")
    return f"{program} on {system}" if system else program
