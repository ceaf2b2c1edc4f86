"""What Linux offers and Python 3.11 does not: mount namespaces, prctl, the bounding set of capabilities, keyrings.

Sources: unshare(2), mount(2), prctl(2), capabilities(7), keyctl(2), and the numbers of the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS = 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_SLAVE = 2, 4, 8, 32, 4096, 16384, 1 << 19
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME = 1, 4, 15
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 36, 38, 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_KEYCTL = {
    "x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280, "armv7l": 311,
}  # fmt: skip
"""The number of keyctl(2), which the C library has no function for, by architecture."""


def _check(result: int, what: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int | bytes = 0) -> int:
    number = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    return int(_libc.prctl(option, number, zero, zero, zero))


def set_name(name: str) -> None:
    """Set the name that ps and top show. At most 15 bytes."""
    _check(_prctl(_PR_SET_NAME, name.encode()), "PR_SET_NAME")


def become_subreaper() -> None:
    """Become the parent of descendants whose own parent ends."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "PR_SET_CHILD_SUBREAPER")


def die_with_parent(signal_number: int) -> None:
    """Get a signal when the parent ends. A change of UID forgets this: call it afterwards."""
    _check(_prctl(_PR_SET_PDEATHSIG, signal_number), "PR_SET_PDEATHSIG")


def allow_own_reading() -> None:
    """Let the process's user read its files in /proc, as of any program that was executed by them."""
    _check(_prctl(_PR_SET_DUMPABLE, 1), "PR_SET_DUMPABLE")


def forbid_new_privileges() -> None:
    """Make setuid programs and file capabilities give nothing, in this process and all that it starts."""
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "PR_SET_NO_NEW_PRIVS")


def drop_bounding_set() -> None:
    """Give up, for good, every capability that a program could gain. Needs CAP_SETPCAP."""
    _check(_prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL), "PR_CAP_AMBIENT")
    for capability in range(64):
        held = _prctl(_PR_CAPBSET_READ, capability)
        if held == -1:  # the kernel has no more
            return
        if held:
            _check(_prctl(_PR_CAPBSET_DROP, capability), "PR_CAPBSET_DROP")


def own_session_keyring() -> None:
    """Leave the session keyring that came with the fork for an empty one: what is in it belongs to whoever is in the session.

    Where keyctl(2) is forbidden (most containers) nobody can use keys. Raises OSError, also on an architecture unknown here.
    """
    number = _SYS_KEYCTL.get(os.uname().machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"keyctl(2) has no number here for {os.uname().machine}")
    try:
        _check(_libc.syscall(number, _KEYCTL_JOIN_SESSION_KEYRING, None), "KEYCTL_JOIN_SESSION_KEYRING")
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise


def own_mounts() -> None:
    """Enter a mount namespace: what the host mounts later is seen here, what is mounted here is not seen there."""
    _check(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, "/", _MS_SLAVE | _MS_REC)


def bind(source: int, target: int) -> None:
    """Mount what one descriptor means on what another means: no name is looked up that somebody could change."""
    _mount(f"/proc/self/fd/{source}", f"/proc/self/fd/{target}", _MS_BIND | _MS_REC)


def forbid_devices(folder: Path) -> None:
    """Make setuid programs and devices of a bind mount give nothing."""
    _mount(None, str(folder), _MS_REMOUNT | _MS_BIND | _MS_NOSUID | _MS_NODEV)


def mount_memory(folder: Path, *, size: int, files: int, uid: int, gid: int) -> None:
    """Mount an empty file system in memory (tmpfs(5)): at most `size` bytes and so many files, of one user alone."""
    options = f"size={size},nr_inodes={files},mode=0700,uid={uid},gid={gid}"
    _mount("tmpfs", str(folder), _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, kind="tmpfs", options=options)


def _mount(source: str | None, target: str, flags: int, *, kind: str = "", options: str = "") -> None:
    words = (word.encode() if word else None for word in (source, target, kind))
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")
