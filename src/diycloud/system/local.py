"""The real host."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import select
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from diycloud.errors import HostError, Unsupported
from diycloud.system import tree
from diycloud.system.contract import CLEAN_ENV, ROOT, Owner, Result, Watch

_CHUNK, _ERRORS = 1 << 20, 64 << 10
_LOOK_S = 0.5


class Local:
    """The real host."""

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
        result = _start(argv, input=input, timeout=timeout, env=env, user=user, cwd=cwd)
        if result.status not in ok:
            tail = "\n".join((result.stderr.strip() or result.stdout.strip()).splitlines()[-8:])
            raise HostError(f"{argv[0]} failed with status {result.status}: {tail or 'it printed nothing'}")
        return result

    def query(
        self,
        argv: Sequence[str],
        *,
        input: str | None = None,
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        try:
            return _start(argv, input=input, timeout=timeout, env=env)
        except _NoSuchProgram as error:
            return Result(127, "", str(error))

    def store_output(self, argv: Sequence[str], path: str | Path, *, watch: Watch) -> str:
        with _host_errors("write", path), tempfile.TemporaryFile() as errors:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb", buffering=0) as file:
                status = _pour(argv, file, errors, watch)
                os.fsync(fd)
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - _ERRORS))
            told = errors.read().decode("utf-8", "replace").strip()
        if status:
            last = "\n".join(told.splitlines()[-8:])
            raise HostError(f"{argv[0]} failed with status {status}: {last or 'it printed nothing'}")
        return told

    def read(self, path: str | Path) -> str | None:
        try:
            with open(path, "rb", buffering=0) as file:  # half the time of Path.read_bytes, a dozen times a change
                return file.readall().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        path = Path(path)
        data = text.encode("utf-8", errors="surrogateescape")
        with _host_errors("write", path):
            if _same_file(path, data, mode, owner):
                return False
            _put_in_place(path, data, mode, owner)
        return True

    def replace(self, path: str | Path, text: str) -> bool:
        path = Path(path)
        data = text.encode("utf-8", errors="surrogateescape")
        with _host_errors("replace", path):
            old = os.lstat(path)
            if not stat.S_ISREG(old.st_mode):
                raise HostError(f"Cannot replace {path}: it is no plain file.")
            if path.read_bytes() == data:
                return False
            _put_in_place(path, data, stat.S_IMODE(old.st_mode), Owner(old.st_uid, old.st_gid), labels=_labels(path))
        return True

    def set_value(self, path: str | Path, value: str) -> None:
        with _host_errors("set", path):
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)

    def make_dir(self, path: str | Path, *, mode: int = 0o755, owner: Owner = ROOT) -> bool:
        with _host_errors("make directory", path):
            changed = False
            try:
                os.mkdir(path, 0o700)
                changed = True
            except FileExistsError:
                pass
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                now = os.fstat(fd)
                if (now.st_uid, now.st_gid) != owner:
                    os.fchown(fd, *owner)
                    changed = True
                if stat.S_IMODE(now.st_mode) != mode:
                    os.fchmod(fd, mode)
                    changed = True
            finally:
                os.close(fd)
        return changed

    def set_attribute(self, path: str | Path, name: str, value: bytes) -> bool:
        with _host_errors("set an attribute of", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _attribute(fd, name) == value:
                    return False
                os.setxattr(fd, name, value)
            except OSError as error:
                if error.errno == errno.ENOTSUP:
                    raise Unsupported(f"The file system of {path} keeps no {name}.") from error
                raise
            finally:
                os.close(fd)
        return True

    def copy_tree(self, source: str | Path, target: str | Path, *, owner: Owner) -> None:
        with _host_errors("copy to", target):
            tree.copy_into(source, target, owner)

    def link(self, path: str | Path, target: str) -> bool:
        path = Path(path)
        with _host_errors("link", path):
            if path.is_symlink() and os.readlink(path) == target:
                return False
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            os.symlink(target, temporary)
            os.rename(temporary, path)
        return True

    def rename(self, old: str | Path, new: str | Path) -> None:
        with _host_errors("rename", old):
            if os.path.isdir(new) and not os.path.islink(new):
                raise HostError(f"Cannot rename {old}: {new} exists.")
            os.rename(old, new)
            _sync_dir(Path(new).parent)

    def remove(self, path: str | Path) -> bool:
        with _host_errors("remove", path):
            try:
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.rmdir(path)
                else:
                    os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def give_tree(self, path: str | Path, *, old: int, new: int) -> tuple[int, int]:
        with _host_errors("give", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                return tree.give_below(fd, old, new, tree.mount_id(fd))
            finally:
                os.close(fd)

    def remove_tree(self, path: str | Path) -> bool:
        path = Path(path)
        with _host_errors("remove", path):
            try:
                parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                tree.remove_at(parent, path.name, tree.mount_id(parent))
            except FileNotFoundError:
                return False
            finally:
                os.close(parent)
        return True

    def exists(self, path: str | Path) -> bool:
        return os.path.lexists(path)

    def list_dir(self, path: str | Path) -> list[str]:
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextlib.contextmanager
    def locked(self, path: str | Path, *, patience_s: float = 30) -> Iterator[None]:
        with _host_errors("lock", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(fd, path, patience_s)
            yield
        finally:
            os.close(fd)

    def kill(self, pid: int, sig: int = signal.SIGKILL) -> bool:
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return False
        return True


class _NoSuchProgram(HostError):
    pass


def _start(
    argv: Sequence[str],
    *,
    input: str | None,
    timeout: float,
    env: Mapping[str, str] | None = None,
    user: Owner | None = None,
    cwd: str | None = None,
) -> Result:
    identity: dict[str, object] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
    try:
        done = subprocess.run(  # type: ignore[call-overload]  # identity's keys are Popen's own
            list(argv),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**CLEAN_ENV, **(env or {})},
            cwd=cwd,
            check=False,
            **identity,
        )
    except FileNotFoundError as error:
        raise _NoSuchProgram(f"There is no program {argv[0]} on this host.") from error
    except PermissionError as error:
        raise HostError(f"{argv[0]} may not be run: {error.strerror}.") from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"{argv[0]} did not end within {timeout:.0f} s.") from error
    return Result(done.returncode, done.stdout, done.stderr)


def _pour(argv: Sequence[str], file: IO[bytes], errors: IO[bytes], watch: Watch) -> int:
    """Copy a program's output to a file until its end; returns its exit status."""
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0, env=CLEAN_ENV
        )
    except FileNotFoundError as error:
        raise _NoSuchProgram(f"There is no program {argv[0]} on this host.") from error
    total = 0
    with process:
        assert process.stdout is not None
        try:
            while True:
                if select.select([process.stdout], [], [], _LOOK_S)[0]:
                    chunk = os.read(process.stdout.fileno(), _CHUNK)
                    if not chunk:
                        break
                    left = memoryview(chunk)
                    while left:
                        left = left[file.write(left) :]
                    total += len(chunk)
                watch(total)
            return process.wait()
        except BaseException:
            process.kill()
            raise


@contextlib.contextmanager
def _host_errors(verb: str, path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostError(f"Cannot {verb} {path}: {error.strerror}.") from error


def _same_file(path: Path, data: bytes, mode: int, owner: Owner) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        info = os.fstat(fd)
        kept = stat.S_ISREG(info.st_mode) and stat.S_IMODE(info.st_mode) == mode and (info.st_uid, info.st_gid) == owner
        if not kept or info.st_size != len(data):
            return False
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read() == data
    finally:
        os.close(fd)


def _put_in_place(
    path: Path, data: bytes, mode: int, owner: Owner, *, labels: Mapping[str, bytes] = {}
) -> None:  # never written to
    """Write beside a path, sync, rename. labels: extended attributes."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchown(fd, *owner)
            os.fchmod(fd, mode)
            for name, value in (labels or {}).items():
                os.setxattr(fd, name, value)
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_dir(path.parent)


def _labels(path: Path) -> dict[str, bytes]:
    """Return a file's extended attributes: its SELinux label, its access control list. Not sums of the old content."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    kept = (name for name in names if name not in ("security.ima", "security.evm"))
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in kept}


def _attribute(fd: int, name: str) -> bytes | None:
    try:
        return os.getxattr(fd, name)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise


def _lock(fd: int, path: str | Path, patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise HostError(f"Another program holds {path}.", f"See who: fuser -v {path}.") from error
            time.sleep(0.02)
        else:
            return


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
