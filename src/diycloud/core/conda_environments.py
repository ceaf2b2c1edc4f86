"""Shared environments that conda makes: beginning, changing and finishing one.

What was asked for is noted beside the environments (`conda/NAME.json`) before anything is done, and that it is whole at the
end. mamba refuses a folder that is there already, and conda would ask: so what was begun and not finished is made from the
beginning; what was downloaded by then is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from diycloud.config import Paths
from diycloud.core import conda
from diycloud.core.conda_kernels import list_offered, offer, withdraw
from diycloud.core.environments import settle
from diycloud.errors import HostError
from diycloud.system import System

PYTHON_KERNEL = "ipykernel>=6"
"""Older ones cannot be kept from listening (launcher/kernel_config.py)."""
_NO_KERNEL = "no notebook can use it: it has neither ipykernel nor another kernel, such as r-irkernel"


class Note(msgspec.Struct, frozen=True):
    """What was asked for, and how. channels: none for those of conda's settings; whole: it was done."""

    channels: tuple[str, ...] = ()
    specs: tuple[str, ...] = ()
    whole: bool = False
    verb: Literal["create", "install"] = "create"

    @property
    def can_be_created(self) -> bool:
        """Whether `create` may make it: what was once whole holds more than that was told."""
        return not self.whole and self.verb == "create"


def is_conda(system: System, paths: Paths, name: str) -> bool:
    """Tell whether a shared environment is conda's, begun or made."""
    return system.exists(_note(paths, name)) or system.exists(paths.kernels / "envs" / name / "conda-meta")


def list_names(system: System, paths: Paths) -> list[str]:
    """Return the names of what conda was asked to make."""
    entries = system.list_dir(paths.kernels / "conda")
    return [entry.removesuffix(".json") for entry in entries if entry.endswith(".json")]


def create(
    system: System, paths: Paths, program: Path, name: str, specs: Sequence[str], channels: Sequence[str]
) -> None:
    """Make an environment, from the beginning. Raises InvalidInput, HostError with conda's last words."""
    conda.check_name(name)
    conda.check_specs(specs)
    conda.check_channels(channels)
    _make(system, paths, program, name, Note(tuple(channels), _with_kernel(conda.merge((), specs))))


def install(
    system: System, paths: Paths, program: Path, name: str, specs: Sequence[str], channels: Sequence[str]
) -> None:
    """Install packages, or other versions of them; from the channels that it was made with, if none are given.

    What a change that was cut off left is made from the beginning, with all that was ever asked for. Raises as `create`.
    """
    conda.check_specs(specs)
    conda.check_channels(channels)
    before = read_note(system, paths, name)
    prefix = paths.kernels / "envs" / name
    conda.require_alone(system, prefix)
    wanted = Note(tuple(channels) or before.channels, conda.merge(before.specs, specs), verb="install")
    was = system.list_dir(prefix / "conda-meta")
    try:
        if before.whole:
            _write(system, paths, name, wanted)
            conda.run(system, paths, program, "install", prefix, specs, wanted.channels)
            _finish(system, paths, name, wanted)
        else:
            _make(system, paths, program, name, wanted)
    except conda.Refused:  # what cannot be is not asked for again with the next change
        verb = "install" if before.whole else before.verb
        same = system.list_dir(prefix / "conda-meta") == was  # it had not begun, or has put everything back
        _write(system, paths, name, msgspec.structs.replace(before, whole=before.whole and same, verb=verb))
        raise


def remove(system: System, paths: Paths, name: str) -> bool:
    """Take an environment away, its kernels first; of either kind. True if there was anything."""
    conda.require_alone(system, paths.kernels / "envs" / name)
    there = withdraw(system, _place(paths), name)
    there |= system.remove_tree(paths.kernels / "envs" / name)
    return system.remove(_note(paths, name)) or there


def read_note(system: System, paths: Paths, name: str) -> Note:
    """Return what was asked for. An environment whose note is lost is taken as whole, and what is in it as asked for."""
    try:
        return msgspec.json.decode(system.read(_note(paths, name)) or "", type=Note)
    except (msgspec.MsgspecError, UnicodeError):
        prefix = paths.kernels / "envs" / name
        specs = tuple(f"{package}={version}" for package, version in conda.list_packages(system, prefix).items())
        return Note(specs=specs, whole=system.exists(prefix / "conda-meta" / "history"))


def read_problem(system: System, paths: Paths, name: str) -> str:
    """Return why an environment cannot be used, or not as it should be; empty if it can."""
    note = read_note(system, paths, name)
    if note.can_be_created:
        return "it is not finished: run the same `env create` again"
    if not note.whole:
        return "a change to it was cut off: run the same `env install` again"
    if not system.exists(paths.kernels / "envs" / name / "conda-meta"):
        return "its folder is gone: `env remove` it"
    return "" if list_offered(system, _place(paths), name) else _NO_KERNEL


def _make(system: System, paths: Paths, program: Path, name: str, note: Note) -> None:
    prefix = paths.kernels / "envs" / name
    conda.require_alone(system, prefix)
    withdraw(system, _place(paths), name)
    for missing in [path for path in (*reversed(prefix.parents), paths.kernels / "conda") if not system.exists(path)]:
        system.make_dir(missing)
    _write(system, paths, name, note)
    system.remove_tree(prefix)
    conda.run(system, paths, program, "create", prefix, note.specs, note.channels)
    _finish(system, paths, name, note)


def _finish(system: System, paths: Paths, name: str, note: Note) -> None:
    prefix = paths.kernels / "envs" / name
    conda.share(system, prefix)
    offered = offer(system, _place(paths), name, prefix)
    settle(system, prefix)
    _write(system, paths, name, msgspec.structs.replace(note, whole=True, verb="install"))
    if not offered:
        raise HostError(
            f"The environment {name} is made, but {_NO_KERNEL}.",
            f"`diycloud jupyter env install {name} ipykernel` adds Python's, r-irkernel R's, xeus-cpp C++'s.",
        )


def _with_kernel(specs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the specifications with Python's kernel among them, where no kernel is."""
    names = [conda.name_of(spec) for spec in specs]
    brings = any(name.endswith("kernel") or name.startswith("xeus") or name == "r-essentials" for name in names)
    return specs if brings else (*specs, PYTHON_KERNEL)


def _place(paths: Paths) -> Path:
    return paths.kernels / "share" / "jupyter" / "kernels"


def _note(paths: Paths, name: str) -> Path:
    return paths.kernels / "conda" / f"{name}.json"


def _write(system: System, paths: Paths, name: str, note: Note) -> None:
    system.write(_note(paths, name), msgspec.json.encode(note).decode() + "\n")
