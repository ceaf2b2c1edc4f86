"""The log of installations: root's alone, appended to, never following a link."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType

from diycloud.errors import HostError
from diycloud.system import System


class InstallLog:
    """Appends lines with their time to install.log in a folder, which is made if it is missing."""

    def __init__(self, system: System, folder: Path) -> None:
        self.path = folder / "install.log"
        system.make_dir(folder, mode=0o750)
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise HostError(f"Cannot write {self.path}: {error.strerror}.") from error
        self._file = os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")

    def write(self, line: str) -> None:
        """Append a line; it is on its way to the disk before the next effect happens."""
        self._file.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        self._file.flush()

    def __enter__(self) -> InstallLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if value is not None:
            self.write(f"ended by {type(value).__name__}: {value}")
        self._file.close()
