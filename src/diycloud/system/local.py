"""The real host."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import signal
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from diycloud.errors import HostError
from diycloud.system.contract import CLEAN_ENV, ROOT, Owner, Result


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

    def read(self, path: str | Path) -> str | None:
        try:
            return Path(path).read_bytes().decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str | Path, text: str, *, mode: int = 0o644, owner: Owner = ROOT) -> bool:
        path = Path(path)
        data = text.encode("utf-8", errors="surrogateescape")
        with _host_errors("write", path):
            if _same_file(path, data, mode, owner):
                return False
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    os.fchown(fd, *owner)
                    os.fchmod(fd, mode)
                    file.write(data)
                    file.flush()
                    os.fsync(fd)
                os.rename(temporary, path)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise
            _sync_dir(path.parent)
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

    def remove_tree(self, path: str | Path) -> bool:
        path = Path(path)
        with _host_errors("remove", path):
            try:
                parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
            try:
                _remove_at(parent, path.name, mount_id(parent))
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
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        kept = stat.S_ISREG(info.st_mode) and stat.S_IMODE(info.st_mode) == mode and (info.st_uid, info.st_gid) == owner
        return kept and info.st_size == len(data) and file.read() == data


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def mount_id(fd: int) -> int:
    """Return the number of the mount that a descriptor was opened in (proc_pid_fdinfo(5)).

    Not st_dev: a bind mount of a folder of the same file system has the same.
    """
    with contextlib.suppress(FileNotFoundError):
        for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    raise OSError(errno.ENOSYS, "/proc does not tell mounts apart")


def _remove_at(parent: int, name: str, mount: int) -> None:
    """Remove a name by the descriptor of its directory, so that a swapped link leads nowhere.

    Folders below are lifted up to the top one and emptied there: however deep someone made them nest, two descriptors
    and no recursion are enough.
    """
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        with _opened(parent, name, mount) as top:
            for _ in range(_MAX_ROUNDS):
                if not (children := os.listdir(top)):
                    break
                for child in children:
                    _lift(top, child, mount)
        os.rmdir(name, dir_fd=parent)


def _lift(top: int, name: str, mount: int) -> None:
    """Remove one entry of a folder; the folders in it move up beside it first."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(name, dir_fd=top)
        except IsADirectoryError:
            with _opened(top, name, mount) as folder:
                for child in os.listdir(folder):
                    try:
                        os.unlink(child, dir_fd=folder)
                    except IsADirectoryError:
                        os.rename(child, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
            os.rmdir(name, dir_fd=top)


@contextlib.contextmanager
def _opened(parent: int, name: str, mount: int) -> Iterator[int]:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        if mount_id(fd) != mount:
            raise OSError(errno.EXDEV, "something is mounted inside")
        yield fd
    finally:
        os.close(fd)


_MAX_ROUNDS = 1_000_000
"""One for each level of nesting: an end to the work if someone adds folders meanwhile."""
