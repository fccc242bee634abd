"""SGLANG_ARGS: the inference engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SglangConfig:
    """The inference engine behind the HTTP contract."""

    rollout_external_engine_addrs: tuple[str, ...] = ()
    """host:port of one or more engines that already run (SGLang or `slimrl serve`) instead of starting embedded ones; weights go to them through files, so they must see this machine's disk."""
    rollout_num_gpus_per_engine: int = 1
    """Share of --rollout-num-gpus that one engine takes; an embedded engine takes 1."""
    sglang_server_concurrency: int = 512
    """Requests in flight to each engine at most."""
    sglang_max_running_requests: int = 256
    """Requests that an embedded engine decodes at once; others wait in its queue."""
    rollout_health_check_interval: float = 30.0
    """Seconds between two looks at the health of an engine that has requests; two failed ones in a row, and the requests move to others."""
    rollout_health_check_timeout: float = 30.0
    """Seconds that an engine may take to say that it is well."""
