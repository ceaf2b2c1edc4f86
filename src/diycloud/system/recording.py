"""A System that notes what passes through it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from diycloud.system.contract import ROOT, Owner, Result, System, Watch, command_line


class Recording:
    """Notes each effect, then lets another System do it.

    before: called with the effect's text ahead of it; the tests that kill a process at every step use it.
    """

    def __init__(self, inner: System, *, before: Callable[[str], None] | None = None) -> None:
        self.inner = inner
        self.effects: list[str] = []
        self._before = before

    def _note(self, effect: str) -> None:
        self.effects.append(effect)
        if self._before is not None:
            self._before(effect)

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
        self._note(f"run {command_line(argv)}")
        return self.inner.run(argv, input=input, ok=ok, timeout=timeout, env=env, user=user, cwd=cwd)

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
        self._note(f"store_output {path} {command_line(argv)}")
        return self.inner.store_output(argv, path, watch=watch)

    def read(self, path: str | Path) -> str | None:
        return self.inner.read(path)

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        self._note(f"write {path}")
        return self.inner.write(path, text, mode=mode, owner=owner)

    def replace(self, path: str | Path, text: str) -> bool:
        self._note(f"replace {path}")
        return self.inner.replace(path, text)

    def set_value(self, path: str | Path, value: str) -> None:
        self._note(f"set {path} {value}")
        self.inner.set_value(path, value)

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        self._note(f"make_dir {path}")
        return self.inner.make_dir(path, mode=mode, owner=owner)

    def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
        self._note(f"set_attribute {path} {name}")
        return self.inner.set_attribute(path, name, value)

    def copy_tree(self, source: str | Path, target: str | Path, *, owner: Owner) -> None:
        self._note(f"copy_tree {source} {target}")
        self.inner.copy_tree(source, target, owner=owner)

    def link(self, path: str | Path, target: str) -> bool:
        self._note(f"link {path} {target}")
        return self.inner.link(path, target)

    def rename(self, old: str | Path, new: str | Path) -> None:
        self._note(f"rename {old} {new}")
        self.inner.rename(old, new)

    def remove(self, path: str | Path) -> bool:
        self._note(f"remove {path}")
        return self.inner.remove(path)

    def give_tree(self, path: str | Path, *, old: int, new: int) -> tuple[int, int]:
        self._note(f"give_tree {path} {old} {new}")
        return self.inner.give_tree(path, old=old, new=new)

    def remove_tree(self, path: str | Path) -> bool:
        self._note(f"remove_tree {path}")
        return self.inner.remove_tree(path)

    def exists(self, path: str | Path) -> bool:
        return self.inner.exists(path)

    def list_dir(self, path: str | Path) -> list[str]:
        return self.inner.list_dir(path)

    def locked(self, path: str | Path, *, patience_s: float = 30) -> AbstractContextManager[None]:
        return self.inner.locked(path, patience_s=patience_s)

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> bool:
        self._note(f"kill {pid} {sig}")
        return self.inner.kill(pid, sig)
