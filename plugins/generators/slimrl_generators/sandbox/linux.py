"""Linux without a library: namespaces, a root folder with little in it, and attributes of a process."""

from __future__ import annotations

import ctypes
import os

# sched.h, mount.h and prctl.h
NEW_USER = 0x10000000
NEW_MOUNTS, NEW_IPC, NEW_PROCESSES, NEW_NETWORK = 0x00020000, 0x08000000, 0x20000000, 0x40000000
NO_SUID, BIND, RECURSIVE, PRIVATE = 2, 4096, 16384, 1 << 18
DETACH = 2
MOUNT_SETATTR, HERE, ALL_BELOW, READ_ONLY = 442, -100, 0x8000, 1
DIE_WITH_PARENT, DUMPABLE, ADOPT, NO_NEW_PRIVILEGES = 1, 4, 36, 38

SYSTEM = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store", "/etc/ld.so.cache", "/etc/localtime")
"""What an interpreter and its libraries may be made of."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
WORK = "/tmp/python"
NOBODY = 65534


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library; OSError with its name."""
    given = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*given) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    call("prctl", option, value, 0, 0, 0)


def leave(size_bytes: int, shown: list[str]) -> bool:
    """Enter namespaces of one's own; the next child is the first process there. Whether it can still become nobody.

    The root folder holds the system's libraries, what is `shown`, and an empty current folder of a size.
    """
    real = [os.path.realpath(path) for path in shown]
    has_rights = enter()
    call("mount", None, b"/", None, RECURSIVE | PRIVATE, None)
    call("mount", b"tmpfs", b"/tmp", b"tmpfs", NO_SUID, f"mode=755,size={size_bytes},nr_inodes=10000".encode())
    os.mkdir("/tmp/host")
    call("pivot_root", b"/tmp", b"/tmp/host")
    os.chdir("/")
    os.umask(0o022)
    for path in (*SYSTEM, *DEVICES):
        show(path, path)
    for path in real:
        show(path, path)
    for path, source in zip(shown, real, strict=True):
        show(source, path)
    call("umount2", b"/host", DETACH)
    os.rmdir("/host")
    for path in ("/dev/shm", "/tmp", WORK):
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o1777)
    os.chdir(WORK)
    return has_rights


def become_nobody() -> None:
    """Leave root for a user who owns nothing."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def enter() -> bool:
    """Unshare; whether with rights of root outside of them too."""
    uid, gid, others = os.getuid(), os.getgid(), NEW_MOUNTS | NEW_IPC | NEW_PROCESSES | NEW_NETWORK
    if uid == 0:
        try:
            call("unshare", others)
            return True
        except OSError:  # a root with few rights; as root it would have processes without number
            become_nobody()
            prctl(DUMPABLE, 1)  # or the files below would be root's
            uid = gid = NOBODY
    call("unshare", NEW_USER | others)
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    return False


def show(host_path: str, path: str) -> None:
    """Bind a path of the host's into the new root folder, where nothing can be written through it."""
    source = f"/host{host_path}"
    if os.path.lexists(path) or not os.path.lexists(source):
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(source):
        os.symlink(os.readlink(source), path)
        return
    if os.path.isdir(source):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT))
    call("mount", source.encode(), path.encode(), None, BIND | RECURSIVE, None)
    attributes = (ctypes.c_uint64 * 4)(READ_ONLY | NO_SUID)
    call("syscall", MOUNT_SETATTR, HERE, path.encode(), ALL_BELOW, attributes, ctypes.sizeof(attributes))
