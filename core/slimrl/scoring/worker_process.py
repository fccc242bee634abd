"""The worker's side: a small process that makes rewards and calls them.

Started by `slimrl.scoring.process` as `python -m slimrl.scoring.worker_process CHANNEL_FD MARK_FD PARENT_PID`. It
imports slimrl and the rewards, nothing else, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import BinaryIO, Final, cast

from slimrl.errors import PluginError, SlimrlError
from slimrl.protocols import Reward
from slimrl.registry import PluginSelection, Registry, is_async_callable, load
from slimrl.registry.discover import Catalogue, last_line
from slimrl.registry.resolve import Resolved
from slimrl.scoring.calling import compute
from slimrl.scoring.wire import COMPUTE, HEADER, RewardSpec, WorkerSpec, decode_call, encode_reply, frame
from slimrl.traits import traits_of

PR_SET_PDEATHSIG: Final = 1


def main(channel_fd: int, mark_fd: int, parent_pid: int) -> None:
    """Serve one scorer over the socket `channel_fd` until it closes."""
    die_with_parent(parent_pid)
    os.dup2(2, 1)  # what a reward prints belongs to the log
    with socket.socket(fileno=channel_fd) as channel:
        # Unbuffered reads until the way of serving is known: what follows may be for another reader.
        with channel.makefile("rwb", buffering=0) as raw:
            stream = cast(BinaryIO, raw)
            rewards = introduce(stream)
            mode = read_frame(stream) if rewards is not None else None
        if rewards is None or mode is None:
            return
        if mode == COMPUTE:
            with channel.makefile("rwb") as buffered:
                serve(cast(BinaryIO, buffered), rewards)
        else:
            from slimrl.scoring.worker_loop import serve_at_once

            serve_at_once(channel, mark_fd, rewards)


def introduce(stream: BinaryIO) -> dict[int, Reward] | None:
    """Make the rewards and say what they are; None when that failed and was said."""
    sys.path[:] = json.loads(read_frame(stream) or b"[]")
    try:
        # S301: the frames come from the process that started this one, over a socket nobody else can reach.
        spec: WorkerSpec = pickle.loads(read_frame(stream) or b"")  # noqa: S301
        rewards = make_rewards(spec)
    except (Exception, SystemExit) as error:  # whatever a reward's module or factory raised is the scorer's to report
        reason = str(error) if isinstance(error, SlimrlError) else last_line(error)
        write_frame(stream, json.dumps({"problem": reason}).encode())
        return None
    made = {number: (is_async_callable(reward), asdict(traits_of(reward))) for number, reward in rewards.items()}
    write_frame(stream, json.dumps({"made": made}).encode())
    limit_memory(spec.memory_limit_bytes)
    return rewards


def make_rewards(spec: WorkerSpec) -> dict[int, Reward]:
    """The rewards by their numbers, from the sources the scorer saw; PluginError otherwise."""
    entry_points = sorted({reward.entry_point for reward in spec.rewards.values() if reward.entry_point})
    # The scorer has chosen among the installed plugins (-p, SLIMRL_PLUGINS); a worker takes what it is told.
    everything = PluginSelection()
    registry = load(entry_points, selection=everything, warn=False) if entry_points else Registry(Catalogue((), (), ()))
    return {number: make_reward(registry, reward, spec) for number, reward in spec.rewards.items()}


def make_reward(registry: Registry, reward: RewardSpec, spec: WorkerSpec) -> Reward:
    """One reward; PluginError when its source is not the one that the scorer saw."""
    resolved: Resolved = registry.resolve("reward", reward.reference, group=reward.is_group)
    if resolved.file_hash != reward.file_hash:
        raise PluginError(f"reward {reward.reference!r} has changed on disk since the run started; restart the run")
    return cast(Reward, resolved.make(spec.options))


def limit_memory(limit_bytes: int | None) -> None:
    """Bound what this process may allocate from now on: past it an allocation fails, which is a MemoryError.

    RLIMIT_DATA and not RLIMIT_AS: it counts what is allocated (heap and private mappings that can be written), not
    address space that is only reserved. Threads and CUDA reserve gigabytes that they never touch.
    """
    if limit_bytes is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))


def serve(stream: BinaryIO, rewards: Mapping[int, Reward]) -> None:
    """Answer one call after the other; an answer is out before the next call begins."""
    while (payload := read_frame(stream)) is not None:
        call = decode_call(payload)
        write_frame(stream, encode_reply(call.id, compute(rewards[call.reward], call)))


def die_with_parent(parent_pid: int) -> None:
    """End this process when its parent ends, also by SIGKILL and also while the reward computes in C."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent_pid:  # it died before the line above
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next payload, or None at the end of the stream."""
    header = _read(stream, HEADER.size)
    return None if header is None else _read(stream, HEADER.unpack(header)[0])


def _read(stream: BinaryIO, count: int) -> bytes | None:
    chunks = []
    while count:
        chunk = stream.read(count)
        if not chunk:
            return None
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """Send a payload at once."""
    left = memoryview(frame(payload))
    while left:
        left = left[stream.write(left) :]
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
