"""A program of its own: pack a home as a tar, as its owner. Started by root (host/archive.py), inside the user's slice.

    python -I -S packing.py UID GID FOLDER NAME gzip|zstd

It gives up root before it looks at the folder, so whatever is planted there is met with the owner's rights. The tar goes
to standard output, compressed; a line of JSON with what was packed and what was not goes to standard error. It imports
the standard library only: it runs without the platform's own packages.

Not in the tar: sockets, fifos and devices; what is mounted below; set-user-ID and its like; anything deeper than
MAX_DEPTH; what the owner cannot read. Links are stored as they are. Holes of sparse files stay holes (GNU tar manual,
"Storing Sparse Files", PAX format 1.0).
"""

import contextlib
import gzip
import io
import json
import os
import stat
import sys
import tarfile
from collections.abc import Iterator
from typing import IO

MAX_DEPTH = 200
BLOCK = 512
LARGE = 1 << 20
"""Bytes from which a file is asked for holes that its blocks do not show."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class _Whole(io.RawIOBase):
    """What a tar entry is read from: a text first, then parts of a file.

    Its length has been promised in the entry's head, so what was cut off meanwhile or cannot be read is zeros.
    """

    def __init__(self, fd: int, parts: list[tuple[int, int]], head: bytes = b"") -> None:
        self._fd, self._parts, self._head = fd, parts, head
        self.damaged = False

    def read(self, size: int = -1) -> bytes:
        pieces = [self._head[:size]]
        self._head = self._head[size:]
        size -= len(pieces[0])
        while size and self._parts:
            start, length = self._parts.pop(0)
            try:
                piece = os.pread(self._fd, min(size, length), start)
            except OSError:
                piece = b""
            if length and not piece:
                piece, self.damaged = bytes(min(size, length)), True
            if length > len(piece):
                self._parts.insert(0, (start + len(piece), length - len(piece)))
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


class Packer:
    """Writes one folder into an open tar. entries, left_out: how many of each.

    What cannot be read is left out; an OSError of the tar's own, which cannot be written, ends the work.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._links: dict[tuple[int, int], str] = {}
        self.entries = 0
        self.left_out = 0

    def pack(self, folder: str, name: str) -> None:
        """Pack a folder under a name. Raises OSError if the folder itself cannot be read."""
        top = os.open(folder, _DIRECTORY)
        device = os.fstat(top).st_dev
        self._add(os.fstat(top), name, tarfile.DIRTYPE)
        ways = [(top, name, os.listdir(top))]  # noqa: PTH208  # by descriptor
        while ways:
            fd, path, names = ways[-1]
            if not names:
                os.close(fd)
                ways.pop()
                continue
            child = names.pop()
            below = self._one(fd, child, f"{path}/{child}", device, deep=len(ways) >= MAX_DEPTH)
            if below is not None:
                ways.append((below[0], f"{path}/{child}", below[1]))

    def _one(self, parent: int, child: str, path: str, device: int, *, deep: bool) -> tuple[int, list[str]] | None:
        """Pack one entry; of a folder return the descriptor and the names in it."""
        fd, names, target = -1, list[str](), ""
        try:
            info = os.stat(child, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                target = os.readlink(child, dir_fd=parent)
            elif info.st_dev == device and stat.S_ISREG(info.st_mode):
                fd = os.open(child, _FILE, dir_fd=parent)
            elif info.st_dev == device and stat.S_ISDIR(info.st_mode) and not deep:
                fd = os.open(child, _DIRECTORY, dir_fd=parent)
                names = os.listdir(fd)  # noqa: PTH208
        except OSError:
            if fd >= 0:
                os.close(fd)
            self.left_out += 1
            return None
        if target:
            self._add(info, path, tarfile.SYMTYPE, target)
            return None
        info = os.fstat(fd) if fd >= 0 else info  # it may have been swapped
        if fd >= 0 and stat.S_ISDIR(info.st_mode):
            self._add(info, path, tarfile.DIRTYPE)
            return fd, names
        try:
            if fd >= 0 and stat.S_ISREG(info.st_mode):
                self._file(fd, info, path)
            else:
                self.left_out += 1
        finally:
            if fd >= 0:
                os.close(fd)
        return None

    def _file(self, fd: int, info: os.stat_result, path: str) -> None:
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in self._links:
            self._add(info, path, tarfile.LNKTYPE, self._links[key])
            return
        if info.st_nlink > 1:
            self._links[key] = path
        whole = [(0, info.st_size)]
        # A large one may be blocks that were only set aside (fallocate(2)): nothing to read either.
        sparse = info.st_blocks * BLOCK < info.st_size or info.st_size >= LARGE
        parts = list(_data(fd, info.st_size)) if sparse else whole
        if parts in (whole, [*whole, (info.st_size, 0)]):
            self._add(info, path, tarfile.REGTYPE, size=info.st_size, source=_Whole(fd, whole))
        else:
            self._sparse(fd, info, path, parts)

    def _sparse(self, fd: int, info: os.stat_result, path: str, parts: list[tuple[int, int]]) -> None:
        numbers = [len(parts), *(number for part in parts for number in part)]
        head = "".join(f"{number}\n" for number in numbers).encode()
        head += bytes(-len(head) % BLOCK)
        folder, _, name = path.rpartition("/")
        headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": path,
            "GNU.sparse.realsize": str(info.st_size),
        }
        size = len(head) + sum(length for _, length in parts)
        stored = f"{folder}/GNUSparseFile.0/{name}"
        self._add(info, stored, tarfile.REGTYPE, size=size, source=_Whole(fd, parts, head), headers=headers)

    def _add(
        self,
        info: os.stat_result,
        path: str,
        kind: bytes,
        target: str = "",
        *,
        size: int = 0,
        source: _Whole | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.size = kind, target, size
        entry.mode = stat.S_IMODE(info.st_mode) & 0o777
        entry.uid, entry.gid, entry.mtime = info.st_uid, info.st_gid, int(info.st_mtime)
        entry.pax_headers = headers or {}
        self._tar.addfile(entry, source)
        # It keeps each to be asked for later: 500 bytes of the user's memory. Missing in the type stubs.
        self._tar.members.clear()  # type: ignore[attr-defined]
        self.entries += 1
        self.left_out += source is not None and source.damaged


def _data(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Give start and length of each part of a file that is no hole (lseek(2), SEEK_DATA)."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # nothing but a hole is left
        at = min(size, os.lseek(fd, start, os.SEEK_HOLE))
        yield start, at - start
    yield size, 0  # where the file ends


def become(uid: int, gid: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


@contextlib.contextmanager
def compressed(method: str) -> Iterator[IO[bytes]]:
    """Give what compresses to standard output. Raises OSError if the zstd program does not end well."""
    if method == "gzip":
        with gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=1, mtime=0) as out:
            yield out  # type: ignore[misc]  # a GzipFile is not declared as IO, and has all of it
        return
    read, write = os.pipe2(os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, read, 0)]
    pid = os.posix_spawnp("zstd", ["zstd", "-q", "-c"], os.environ, file_actions=actions)
    os.close(read)
    with os.fdopen(write, "wb", buffering=1 << 18) as pipe:
        yield pipe
    if os.waitpid(pid, 0)[1]:
        raise OSError("zstd failed")


def main(argv: list[str]) -> int:
    uid, gid, folder, name, method = int(argv[1]), int(argv[2]), *argv[3:6]
    if not uid or not gid:
        sys.stderr.write("not as root\n")
        return 2
    become(uid, gid)
    os.chdir("/")
    try:
        with (
            compressed(method) as out,
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 16) as tar,
        ):
            packer = Packer(tar)
            packer.pack(folder, name)
        sys.stdout.flush()
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        return 1
    sys.stderr.write(json.dumps({"entries": packer.entries, "left_out": packer.left_out}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
