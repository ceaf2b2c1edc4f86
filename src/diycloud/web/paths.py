"""From a path to what answers there: a tree of segments, so that a look-up costs the same however many routes there are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

E = TypeVar("E")


class _Node(Generic[E]):
    __slots__ = ("ends", "fixed", "name", "open")

    def __init__(self) -> None:
        self.fixed: dict[str, _Node[E]] = {}
        self.open: _Node[E] | None = None
        self.name = ""
        self.ends: dict[str, E] = {}


class Paths(Generic[E]):
    """Endpoints by path and method. `{name}` in a path stands for one segment; a fixed segment goes first."""

    def __init__(self) -> None:
        self._root: _Node[E] = _Node()

    def add(self, method: str, path: str, end: E) -> None:
        """Put an endpoint at a path such as `/users/{username}`. Raises ValueError for one that is there already."""
        node = self._root
        for segment in path.split("/"):
            if segment.startswith("{"):
                node.open = node.open or _Node()
                node = node.open
                node.name = segment[1:-1]
            else:
                node = node.fixed.setdefault(segment, _Node())
        if method in node.ends:
            raise ValueError(f"{method} {path} is there twice")
        node.ends[method] = end

    def find(self, method: str, path: str) -> tuple[E, dict[str, str]] | None:
        """Return the endpoint of a path with its names filled in, None if there is none for this method."""
        segments = path.split("/")
        node, names = self._root, {}
        for segment in segments:  # nearly always straight down
            below = node.fixed.get(segment)
            if below is None:
                below = node.open
                if below is None or not segment:
                    break
                names[below.name] = segment
            node = below
        else:
            if method in node.ends:
                return node.ends[method], names
        for node, names in _walk(self._root, segments, 0):
            if method in node.ends:
                return node.ends[method], names
        return None

    def methods(self, path: str) -> set[str]:
        """Return the methods that a path has, none if nothing is there."""
        return {method for node, _ in _walk(self._root, path.split("/"), 0) for method in node.ends}


def _walk(node: _Node[E], segments: list[str], at: int) -> Iterator[tuple[_Node[E], dict[str, str]]]:
    if at == len(segments):
        yield node, {}
        return
    segment = segments[at]
    if segment in node.fixed:
        yield from _walk(node.fixed[segment], segments, at + 1)
    if node.open is not None and segment:
        for found, names in _walk(node.open, segments, at + 1):
            yield found, {node.open.name: segment, **names}
