"""`python -c START PARENT ISOLATION LIMITS WORK PACKAGES < PROGRAM`: one program, run apart and left without a trace.

What the program writes goes to stdout; how it ended is one line on stderr. SIGTERM ends it with all its processes.
"""

from __future__ import annotations

import os
import sys

from slimrl_generators.sandbox import confine, linux, program

TERMINATE = 15


class _Over(Exception):
    """Whoever started the program wants no more of it."""


def main() -> None:
    """Run the program on stdin in a child process."""
    parent, isolation, timeout_s, memory_bytes, file_bytes, processes, work, packages = sys.argv[1:]
    has_namespaces = isolation == "namespaces"
    source = sys.stdin.buffer.read()
    theirs, ours = os.pipe()
    try:
        if has_namespaces:
            is_nobody = linux.leave(int(file_bytes), [path for path in (sys.base_prefix, packages) if path])
        else:
            os.chdir(work)
            is_nobody = os.getuid() == 0 and confine.nobody_can_read(os.__file__)
            adopt()
        if sys.platform == "linux":
            linux.prctl(linux.DIE_WITH_PARENT, TERMINATE)  # now: a change of user takes it away
        if os.getppid() != int(parent):  # it has ended already, perhaps in the middle of the program
            return
        child = os.fork()
        if child:
            os.close(theirs)
            watch(child, has_namespaces)
            os._exit(0)  # Python's own end takes milliseconds
        os.close(ours)
        limits = confine.Limits(int(timeout_s), int(memory_bytes), int(file_bytes), int(processes))
        confine.confine(limits, has_namespaces, is_nobody)
        if is_orphan(theirs):
            return
    except (OSError, ValueError) as error:
        report(f"problem {error}")
        return
    except _Over:  # the child has just begun, and ends with this process
        return
    os.close(theirs)
    os.dup2(1, 2)
    program.run(source, packages)


def is_orphan(pipe: int) -> bool:
    """Whether the parent ended before this process had asked to end with it."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


def watch(child: int, has_namespaces: bool) -> None:
    """Wait for the program and say how it ended; none of its processes is left then."""
    ended = "signal 15"
    try:
        status = os.waitpid(child, 0)[1]
        ended = f"exit {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else f"signal {os.WTERMSIG(status)}"
    except _Over:
        pass
    if not has_namespaces:  # there the child is the first process of its namespace, and all others end with it
        confine.end_group(child)
    report(ended)


def adopt() -> None:
    """Become the parent of what leaves the program's process group, and outlive SIGTERM to kill it.

    Before the program starts: what it leaves behind at once would be another's child.
    """
    import signal

    if sys.platform == "linux":
        linux.prctl(linux.ADOPT, 1)
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: object) -> None:
    """Handle SIGTERM, once: it comes again from each thread of a parent that dies."""
    import signal

    signal.signal(number, signal.SIG_IGN)
    raise _Over


def report(line: str) -> None:
    """Say how it ended."""
    os.write(2, f"{line}\n".encode())
