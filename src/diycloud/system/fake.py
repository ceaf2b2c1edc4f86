"""A host in memory, for tests: this project's own and those of people who write hooks."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from diycloud.errors import HostError
from diycloud.system.contract import ROOT, Owner, Result, Watch, command_line


class File(NamedTuple):
    """A file of the Fake: text None is a directory, target set is a link; attributes: extended ones."""

    text: str | None
    mode: int = 0o644
    owner: Owner = ROOT
    target: str | None = None
    attributes: Mapping[str, bytes] = MappingProxyType({})


class UnexpectedCommand(BaseException):
    """A test's Fake was asked to run what it has no answer for. BaseException: no `except Exception` may hide it."""


class Fake:
    """A host in memory. Ships with the product, so that others can test their hooks against it.

    commands: command line (as `command_line` prints it) → Result, or a callable of argv and input for the ones that
    change files. A command that is not listed raises UnexpectedCommand.
    """

    def __init__(
        self,
        files: Mapping[str, str] | None = None,
        commands: Mapping[str, Result | str | Callable[[Sequence[str], str | None], Result]] | None = None,
    ) -> None:
        self.files: dict[str, File] = {"/": File(None, 0o755)}
        self.commands = dict(commands or {})
        self.ran: list[str] = []
        for path, text in (files or {}).items():
            for parent in reversed(Path(path).parents):
                self.files.setdefault(str(parent), File(None, 0o755))
            self.files[path] = File(text)

    def _execute(self, argv: Sequence[str], input: str | None) -> Result:
        line = command_line(argv)
        self.ran.append(line)
        if line not in self.commands:
            raise UnexpectedCommand(line)
        answer = self.commands[line]
        if isinstance(answer, str):
            return Result(0, answer, "")
        return answer if isinstance(answer, Result) else answer(argv, input)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        ok: Sequence[int] = (0,),
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        user: Owner | None = None,
        cwd: str | None = None,
    ) -> Result:
        result = self._execute(argv, input)
        if result.status not in ok:
            raise HostError(f"{argv[0]} failed with status {result.status}: {result.stderr}")
        return result

    def query(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        return self._execute(argv, input)

    def store_output(self, argv: Sequence[str], path: str | Path, *, watch: Watch) -> str:
        self._parent(path)
        result = self._execute(argv, None)
        self.files[str(path)] = File(result.stdout, 0o600)
        watch(len(result.stdout))
        if not result.ok:
            raise HostError(f"{argv[0]} failed with status {result.status}: {result.stderr}")
        return result.stderr

    def read(self, path: str | Path) -> str | None:
        file = self.files.get(str(path))
        if file is not None and file.target is not None:
            return self.read(Path(path).parent / file.target)
        if file is not None and file.text is None:
            raise HostError(f"{path} is a directory.")
        return file.text if file else None

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        self._parent(path)
        new = File(text, mode, owner)
        if self._is_dir(str(path)):
            raise HostError(f"Cannot write {path}: Is a directory.")
        changed = self.files.get(str(path)) != new
        self.files[str(path)] = new
        return changed

    def replace(self, path: str | Path, text: str) -> bool:
        old = self.files.get(str(path))
        if old is None or old.text is None or old.target is not None:
            raise HostError(f"Cannot replace {path}: No such file.")
        return self.write(path, text, mode=old.mode, owner=old.owner)

    def set_value(self, path: str | Path, value: str) -> None:
        old = self.files.get(str(path))
        if old is None or old.text is None:
            raise HostError(f"Cannot set {path}: No such file or directory.")
        self.files[str(path)] = old._replace(text=value)

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        self._parent(path)
        old = self.files.get(str(path))
        new = (old or File(None))._replace(mode=mode, owner=owner)
        if old is not None and (old.text is not None or old.target is not None):
            raise HostError(f"Cannot make directory {path}: Not a directory.")
        self.files[str(path)] = new
        return old != new

    def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
        old = self.files.get(str(path))
        if old is None or old.text is not None or old.target is not None:
            raise HostError(f"Cannot set an attribute of {path}: No such file or directory.")
        self.files[str(path)] = old._replace(attributes={**old.attributes, name: value})
        return old.attributes.get(name) != value

    def copy_tree(self, source: str | Path, target: str | Path, *, owner: Owner) -> None:
        if not self._is_dir(str(source)) or not self._is_dir(str(target)):
            raise HostError(f"Cannot copy {source} to {target}: No such directory.")
        for name in [n for n in self.files if n.startswith(f"{source}/")]:
            self.files[str(target) + name[len(str(source)) :]] = self.files[name]._replace(owner=owner)

    def link(self, path: str | Path, target: str) -> bool:
        self._parent(path)
        new = File("", 0o777, ROOT, target)
        changed = self.files.get(str(path)) != new
        self.files[str(path)] = new
        return changed

    def rename(self, old: str | Path, new: str | Path) -> None:
        if str(old) not in self.files:
            raise HostError(f"Cannot rename {old}: No such file or directory.")
        if self._is_dir(str(new)):
            raise HostError(f"Cannot rename {old}: {new} exists.")
        self._parent(new)
        for name in [n for n in self.files if n == str(old) or n.startswith(f"{old}/")]:
            self.files[str(new) + name[len(str(old)) :]] = self.files.pop(name)

    def remove(self, path: str | Path) -> bool:
        if str(path) not in self.files:
            return False
        if self._is_dir(str(path)) and self.list_dir(path):
            raise HostError(f"Cannot remove {path}: Directory not empty.")
        del self.files[str(path)]
        return True

    def give_tree(self, path: str | Path, *, old: int, new: int) -> tuple[int, int]:
        below = [name for name, file in self.files.items() if name.startswith(f"{path}/") and file.owner.uid == old]
        links = [name for name in below if self.files[name].target is not None]
        for name in below:
            if name not in links:
                self.files[name] = self.files[name]._replace(owner=Owner(new, self.files[name].owner.gid))
        return len(below) - len(links), len(links)

    def remove_tree(self, path: str | Path) -> bool:
        names = [n for n in self.files if n == str(path) or n.startswith(f"{path}/")]
        for name in names:
            del self.files[name]
        return bool(names)

    def exists(self, path: str | Path) -> bool:
        return str(path) in self.files

    def list_dir(self, path: str | Path) -> list[str]:
        return sorted({Path(n).name for n in self.files if n != "/" and str(Path(n).parent) == str(path)})

    def locked(self, path: str | Path, *, patience_s: float = 30) -> AbstractContextManager[None]:
        return nullcontext()

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> bool:
        self.ran.append(f"kill {pid} {sig}")
        return True

    def _is_dir(self, path: str) -> bool:
        file = self.files.get(path)
        return file is not None and file.text is None

    def _parent(self, path: str | Path) -> None:
        if not self._is_dir(str(Path(path).parent)):
            raise HostError(f"Cannot write {path}: No such file or directory.")
