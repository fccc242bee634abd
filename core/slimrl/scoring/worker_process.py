"""The worker's side: a small process that makes one reward and scores one sample at a time.

Started by `slimrl.scoring.workers` as `python -m slimrl.scoring.worker_process FD PARENT_PID`. It imports slimrl
and the reward, nothing else, and dies with its parent.
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
from dataclasses import replace
from typing import BinaryIO, Final, cast

from slimrl.errors import PluginError, SlimrlError
from slimrl.protocols import Reward
from slimrl.registry import Registry, is_async_callable, load
from slimrl.registry.discover import Catalogue, last_line
from slimrl.registry.resolve import Resolved
from slimrl.scoring.outcome import failed, to_score
from slimrl.scoring.wire import HEADER, WorkerSpec, encode_score, frame
from slimrl.types import Sample, Score

PR_SET_PDEATHSIG: Final = 1


def main(fd: int, parent_pid: int) -> None:
    """Serve one scorer over the socket `fd` until it closes."""
    die_with_parent(parent_pid)
    os.dup2(2, 1)  # what a reward prints belongs to the log
    with socket.socket(fileno=fd) as channel, channel.makefile("rwb") as stream:
        serve(cast(BinaryIO, stream))


def serve(stream: BinaryIO) -> None:
    """Make the reward, then answer one sample after the other."""
    sys.path[:] = json.loads(read_frame(stream) or b"[]")
    try:
        # S301: the frames come from the process that started this one, over a socket nobody else can reach.
        spec: WorkerSpec = pickle.loads(read_frame(stream) or b"")  # noqa: S301
        reward = make_reward(spec)
    except Exception as error:  # whatever the reward's module or factory raised is the scorer's to report
        reason = str(error) if isinstance(error, SlimrlError) else last_line(error)
        write_frame(stream, json.dumps({"problem": reason}).encode())
        return
    write_frame(stream, json.dumps({"is_async": is_async_callable(reward)}).encode())
    if spec.memory_limit_bytes is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (spec.memory_limit_bytes, spec.memory_limit_bytes))
    while (payload := read_frame(stream)) is not None:
        write_frame(stream, encode_score(score_one(reward, payload, spec.reward_key)))


def make_reward(spec: WorkerSpec) -> Reward:
    """The reward, from the sources the scorer saw; PluginError otherwise."""
    registry = load([spec.entry_point]) if spec.entry_point else Registry(Catalogue((), (), ()))
    resolved: Resolved = registry.resolve("reward", spec.reference)
    if resolved.file_hash != spec.file_hash:
        raise PluginError(f"reward {spec.reference!r} has changed on disk since the run started; restart the run")
    return cast(Reward, resolved.make(spec.options))


def score_one(reward: Reward, payload: bytes, reward_key: str | None) -> Score:
    """Call a plain reward on a pickled sample; whatever happens is an outcome."""
    started = time.perf_counter()
    try:
        sample: Sample = pickle.loads(payload)  # noqa: S301  # as above
        score = to_score(reward(sample), reward_key)
    except (Exception, SystemExit) as error:  # a plugin's edge
        score = failed(f"the reward raised {last_line(error)}")
    return replace(score, seconds=time.perf_counter() - started)


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
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return stream.read(HEADER.unpack(header)[0])


def write_frame(stream: BinaryIO, payload: bytes) -> None:
    """Send a payload at once."""
    stream.write(frame(payload))
    stream.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
