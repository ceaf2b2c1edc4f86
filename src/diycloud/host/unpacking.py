"""A program of its own: unpack an archive of a folder (packing.py) as its owner. Started by root (host/archive.py).

    python -I -S unpacking.py UID GID ARCHIVE PARENT NAME OTHER

It opens the archive, gives up root, and has tar unpack into a folder beside; when all of it is there that is renamed to
PARENT/NAME, or to PARENT/OTHER where NAME has something in it: nothing is overwritten, and what is planted in the way is met
with the owner's rights. It prints the path. Standard library only, as packing.py.
"""

import os
import shutil
import sys
from pathlib import Path

_COMPRESSED = {".gz": "--gzip", ".zst": "--zstd"}


def become(uid: int, gid: int) -> None:
    """Give up root for good."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def unpack(archive: int, method: str, folder: Path) -> None:
    """Unpack what a descriptor holds, without the name of its top folder. Raises OSError if tar does not end well."""
    folder.mkdir(mode=0o700)
    argv = ["tar", "--extract", method, "--strip-components=1", "--no-same-owner", f"--directory={folder}", "--file=-"]
    pid = os.posix_spawnp("tar", argv, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, archive, 0)])
    if os.waitpid(pid, 0)[1]:
        raise OSError("tar could not unpack all of it")


def put_in_place(part: Path, names: list[str]) -> Path:
    """Give a folder the first of the names that nothing holds, but for an empty folder (rename(2)); returns its path."""
    for name in names:
        try:
            return part.rename(part.with_name(name))
        except OSError as error:
            taken = error
    raise taken


def main(argv: list[str]) -> int:
    uid, gid, archive, parent, names = int(argv[1]), int(argv[2]), Path(argv[3]), Path(argv[4]), argv[5:]
    if not uid or not gid:
        sys.stderr.write("not as root\n")
        return 2
    part = parent / f".{names[0]}.part"
    try:
        source = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        become(uid, gid)
        os.umask(0o022)
        os.chdir("/")
        shutil.rmtree(part, ignore_errors=True)  # of a run that was cut off
        try:
            unpack(source, _COMPRESSED[archive.suffix], part)
            sys.stdout.write(f"{put_in_place(part, names)}\n")
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    except OSError as error:
        sys.stderr.write(f"{error.strerror or error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
