"""Common passwords, words and names: the lists of the package zxcvbn, 30,000 passwords found most often among 94,000 texts.

Only its file is used, read and searched as text: a look takes a fraction of a millisecond and keeps nothing in memory, where
the lists as Python objects would be 10 MB of a server that asks them once a day.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

SHORTEST, LONGEST = 4, 40
"""Characters of what is looked for: shorter words are in everything, and longer ones in no list."""
_NEVER = frozenset(' ,"\\')
"""What no word of the lists has."""
_ENDS = b',"'


@cache
def _file() -> Path:
    """Return the file of the lists: Python text, each list one string with commas between."""
    found = importlib.util.find_spec("zxcvbn")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("zxcvbn is not installed: it has the lists of common passwords")
    return Path(found.submodule_search_locations[0], "frequency_lists.py")


def is_listed(*texts: str) -> bool:
    """Tell whether one of some texts, in lower case, is a common password, word or name."""
    wanted = {text.encode() for text in texts if SHORTEST <= len(text) <= LONGEST and not _NEVER & set(text)}
    if not wanted:
        return False
    lists = _file().read_bytes()
    return any(_holds(lists, word) for word in wanted)


def _holds(lists: bytes, word: bytes) -> bool:
    at = lists.find(word)
    while at > 0:
        if lists[at - 1] in _ENDS and lists[at + len(word)] in _ENDS:
            return True
        at = lists.find(word, at + 1)
    return False
