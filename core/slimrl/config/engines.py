"""The engines of a run: how many, and the rules of their settings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from slimrl.config import Config
from slimrl.config.sft import is_sft

ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):(\d{1,5})")


def num_embedded_engines(config: Config) -> int:
    """Engines that the run starts itself."""
    if config.sglang.rollout_external_engine_addrs or is_sft(config.rollout):
        return 0
    return (config.cluster.rollout_num_gpus or 1) // config.sglang.rollout_num_gpus_per_engine


def check_engines(config: Config) -> Iterator[str]:
    """Every broken rule, one sentence each."""
    sglang, cluster = config.sglang, config.cluster
    addresses = sglang.rollout_external_engine_addrs
    for address in addresses:
        match = ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[1]) < 65536:
            yield f"--rollout-external-engine-addrs {address!r} is not an address; expected host:port"
    for address in sorted(set(addresses)):
        if addresses.count(address) > 1:
            yield f"--rollout-external-engine-addrs names {address} twice"
    if addresses:
        elsewhere = "has no effect on engines that --rollout-external-engine-addrs names"
        if sglang.sglang_max_running_requests != type(sglang).sglang_max_running_requests:
            yield f"--sglang-max-running-requests {elsewhere}"
        if cluster.rollout_num_gpus is not None:
            yield f"--rollout-num-gpus {elsewhere}: there are as many as addresses"
        if sglang.rollout_num_gpus_per_engine != 1:
            yield f"--rollout-num-gpus-per-engine {elsewhere}: each is as it was started"
    elif sglang.rollout_num_gpus_per_engine > 1:
        yield (
            f"--rollout-num-gpus-per-engine {sglang.rollout_num_gpus_per_engine}: the embedded engine has no tensor "
            "parallelism; start SGLang servers with --tp-size and name them with --rollout-external-engine-addrs, or "
            "leave it at 1 and give --rollout-num-gpus the number of engines"
        )


def check_device(config: Config, device: str) -> Iterator[str]:
    """What is wrong with the number of engines on a device."""
    if device == "cuda" and num_embedded_engines(config) > 1:
        yield (
            f"--rollout-num-gpus {config.cluster.rollout_num_gpus}: embedded engines would share one GPU, which is "
            "slower than one engine; start an SGLang server on each and name them with --rollout-external-engine-addrs"
        )


def threads_per_engine(num_threads: int, num_engines: int) -> int:
    """Engines share the threads; each has one at least."""
    return max(num_threads // max(num_engines, 1), 1)
