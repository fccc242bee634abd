"""SGLANG_ARGS: the inference engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SglangConfig:
    """The inference engine behind the HTTP contract."""

    rollout_external_engine_addrs: tuple[str, ...] = ()
    """host:port of an engine that already runs (SGLang or `slimrl serve`) instead of starting the embedded one; weights go to it through files, so it must see this machine's disk."""
    sglang_server_concurrency: int = 512
    """Requests in flight to the engine at most."""
    sglang_max_running_requests: int = 256
    """Requests that the embedded engine decodes at once; others wait in its queue."""
