"""Ray: a private instance on this machine, or a cluster that exists already."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from slimrl.errors import UsageError

OBJECT_STORE_BYTES = 256 * 2**20
CONNECT_S = 10.0
"""How long a cluster may take to accept a connection."""


@contextmanager
def ray_session(address: str | None, *, num_threads: int) -> Iterator[Any]:
    """The ray module, connected; disconnects (and ends a private instance) on leaving.

    Raises UsageError when the cluster at `address` cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing phones home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")  # idle workers cost 100 MB each
    if address is None:
        # Ray's own switch for machines that are no cluster: all its servers then listen on loopback only.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    common: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": logging.WARNING,
        "runtime_env": {"env_vars": worker_environment(num_threads)},
        "configure_logging": False,
    }
    if address is None:
        ray.init(
            address="local",  # else Ray takes a cluster that somebody started on this machine
            **common,
            include_dashboard=False,
            num_cpus=max(os.cpu_count() or 1, 2),
            object_store_memory=OBJECT_STORE_BYTES,
        )
    else:
        try:
            _knock(address)
            ray.init(address=address, **common)
        except (OSError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"--ray-address {address}: no Ray cluster answers there ({error}); start one with "
                "`ray start --head`, or leave the flag out for a private one"
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at host:port: Ray would try again for longer than anybody waits."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.port is not None and parts.hostname:
        socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_S).close()


def worker_environment(num_threads: int) -> dict[str, str]:
    """Environment of the actors: threads, imports as the driver sees them, no hub."""
    return {
        "OMP_NUM_THREADS": str(num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that wait for work sleep: the engine's share the cores
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
