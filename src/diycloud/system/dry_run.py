"""A System that prints the plan."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from diycloud.errors import HostError
from diycloud.system.contract import ROOT, Owner, Result, System, Watch, command_line
from diycloud.system.fake import Fake, File


class DryRun(Fake):
    """Prints each effect and changes nothing. Reads see the host with the printed effects laid over it."""

    def __init__(self, inner: System, show: Callable[[str], None]) -> None:
        super().__init__()
        self.inner = inner
        self._show = show
        self._gone: set[str] = set()

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
        self._show(f"run        {command_line(argv)}" + (f"   (as uid {user.uid})" if user else ""))
        return Result(ok[0], "", "")

    def query(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        return self.inner.query(argv, input=input, timeout=timeout, env=env)

    def store_output(self, argv: Sequence[str], path: str | Path, *, watch: Watch) -> str:
        self._show(f"run        {command_line(argv)} > {path}")
        self._lay(path, File("", 0o600))
        return ""

    def read(self, path: str | Path) -> str | None:
        if self._hidden(path):
            return None
        return super().read(path) if str(path) in self.files else self.inner.read(path)

    def exists(self, path: str | Path) -> bool:
        return not self._hidden(path) and (str(path) in self.files or self.inner.exists(path))

    def list_dir(self, path: str | Path) -> list[str]:
        if self._hidden(path):
            return []
        names = {*self.inner.list_dir(path), *super().list_dir(path)}
        return sorted(name for name in names if not self._hidden(Path(path) / name))

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        before = self.read(path)
        self._lay(path, File(text, mode, owner))
        if before == text:
            return False
        self._show(f"write      {path}   (mode {mode:04o})")
        if not mode & 0o077:
            self._show("           (its content is for its owner only)")
            return True
        for line in difflib.unified_diff((before or "").splitlines(), text.splitlines(), lineterm="", n=1):
            if not line.startswith(("---", "+++")):
                self._show(f"           {line}")
        return True

    def replace(self, path: str | Path, text: str) -> bool:
        before = self.read(path)
        if before is None:
            raise HostError(f"Cannot replace {path}: No such file.")
        self._lay(path, File(text))
        if before != text:
            self._show(f"replace    {path}")
        return before != text

    def set_value(self, path: str | Path, value: str) -> None:
        self._show(f"set        {path} = {value}")
        self._lay(path, File(value))

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        new = not self.exists(path)
        if new:
            self._show(f"directory  {path}   (mode {mode:04o})")
        kept = self.files[str(path)].attributes if str(path) in self.files else {}
        self._lay(path, File(None, mode, owner, attributes=kept))
        return new

    def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
        if not self.exists(path):
            raise HostError(f"Cannot set an attribute of {path}: No such file or directory.")
        if str(path) not in self.files:
            self._lay(path, File(None, 0o755))
        changed = super().set_attribute(path, name, value)
        if changed:
            self._show(f"attribute  {name} of {path}")
        return changed

    def copy_tree(self, source: str | Path, target: str | Path, *, owner: Owner) -> None:
        self._show(f"copy       {source} into {target}   (as uid {owner.uid})")

    def link(self, path: str | Path, target: str) -> bool:
        self._show(f"link       {path} -> {target}")
        self._lay(path, File("", 0o777, ROOT, target))
        return True

    def rename(self, old: str | Path, new: str | Path) -> None:
        self._show(f"rename     {old} to {new}")
        laid = {path: file for path, file in self.files.items() if path == str(old) or path.startswith(f"{old}/")}
        self._lay(new, laid.get(str(old), File(None, 0o755)))
        for path, file in laid.items():
            self.files[str(new) + path[len(str(old)) :]] = file
        self._hide(old)

    def remove(self, path: str | Path) -> bool:
        there = self.exists(path)
        if there:
            self._show(f"remove     {path}")
        self._hide(path)
        return there

    def give_tree(self, path: str | Path, *, old: int, new: int) -> tuple[int, int]:
        self._show(f"give       what is {old}'s below {path} to {new}")
        return 0, 0

    def remove_tree(self, path: str | Path) -> bool:
        there = self.exists(path)
        if there:
            self._show(f"remove     {path} and all below it")
        self._hide(path)
        return there

    def locked(self, path: str | Path, *, patience_s: float = 30) -> AbstractContextManager[None]:
        return nullcontext()

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> bool:
        self._show(f"signal     {signal.Signals(sig).name} to process {pid}")
        return True

    def _lay(self, path: str | Path, file: File) -> None:
        for parent in reversed(Path(path).parents):
            self.files.setdefault(str(parent), File(None, 0o755))
        self._gone.discard(str(path))
        self.files[str(path)] = file

    def _hide(self, path: str | Path) -> None:
        super().remove_tree(path)
        self._gone.add(str(path))

    def _hidden(self, path: str | Path) -> bool:
        return any(str(p) in self._gone for p in (Path(path), *Path(path).parents)) and str(path) not in self.files
