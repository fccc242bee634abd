"""What a process gives up before it runs a model's program, and how all of the program's processes are ended."""

from __future__ import annotations

import os
import resource
import sys

from slimrl_generators.sandbox import linux

KILL = 9
NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo")
"""What Python announces before it uses a network."""


class Limits:
    """What a program may have."""

    def __init__(self, timeout_s: int, memory_bytes: int, file_bytes: int, processes: int) -> None:
        self.timeout_s = timeout_s
        self.memory_bytes = memory_bytes
        """Of each process."""
        self.file_bytes = file_bytes
        """Of each file."""
        self.processes = processes


def nobody_can_read(path: str) -> bool:
    """Whether a user who owns nothing can read a file; asked by root."""
    os.seteuid(linux.NOBODY)
    can_read = os.access(path, os.R_OK, effective_ids=True)
    os.seteuid(0)
    return can_read


def confine(limits: Limits, has_namespaces: bool, is_nobody: bool) -> None:
    """Give up terminal, user, rights and means; OSError or ValueError where this machine does not let it."""
    os.setsid()
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    if is_nobody:
        os.chown(".", linux.NOBODY, linux.NOBODY)
        linux.become_nobody()
    if has_namespaces:
        # A user namespace in the other: no rights over its mounts, and processes are counted from none again.
        linux.call("unshare", linux.NEW_USER)
    if has_namespaces or is_nobody:  # otherwise it counts whatever the user runs
        set_limit(resource.RLIMIT_NPROC, limits.processes)
    if not has_namespaces:
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.addaudithook(refuse_network)
    if sys.platform == "linux":
        linux.prctl(linux.DIE_WITH_PARENT, KILL)
        linux.prctl(linux.NO_NEW_PRIVILEGES, 1)
        set_limit(resource.RLIMIT_AS, limits.memory_bytes)
    set_limit(resource.RLIMIT_CPU, limits.timeout_s + 1)
    set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    set_limit(resource.RLIMIT_NOFILE, 256)
    set_limit(resource.RLIMIT_CORE, 0)


def set_limit(which: int, value: int) -> None:
    """Lower a limit for good; it stays where it is lower already."""
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def refuse_network(event: str, arguments: object) -> None:
    """An audit hook: it stops Python's own sockets, and nobody who wants around it."""
    if event in NETWORK:
        raise PermissionError("a program of this tool has no network")


def end_group(child: int) -> None:
    """Kill a process with its group, and whatever left the group and became this process's child."""
    try:
        os.killpg(child, KILL)
    except (ProcessLookupError, PermissionError):  # macOS refuses where only ended ones are left
        pass
    try:
        while True:
            for pid in children():
                os.kill(pid, KILL)  # it is not reaped yet, so the number is its own
            os.waitpid(-1, 0)
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    except ChildProcessError:  # none is left
        pass


def children() -> list[int]:
    """The children of this process; none on a system without /proc."""
    if sys.platform != "linux":
        return []
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                parent = stat.read().rpartition(")")[2].split()[1]
        except OSError:  # it has just ended
            continue
        if int(parent) == os.getpid():
            found.append(int(name))
    return found
