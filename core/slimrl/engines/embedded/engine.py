"""One model behind one scheduler: what the server, the benchmark and tests drive."""

from __future__ import annotations

import logging
import random
import secrets
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from slimrl.engines.embedded.fallback import FallbackRunner
from slimrl.engines.embedded.native import NativeRunner
from slimrl.engines.embedded.options import EngineOptions
from slimrl.engines.embedded.params import RequestError
from slimrl.engines.embedded.request import Request
from slimrl.engines.embedded.runner import Runner
from slimrl.engines.embedded.scheduler import Scheduler
from slimrl.engines.embedded.shape import read_config, shape_of
from slimrl.engines.embedded.text import Text, end_ids
from slimrl.errors import UsageError

logger = logging.getLogger(__name__)

_MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.8}
"""Of the free memory, for keys and values; a CPU's is shared with the trainer."""

_PREFILL_SIZE = {"cpu": 1024, "cuda": 8192}


class Engine:
    """Loads a model and serves requests until closed."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.config: dict[str, Any] = read_config(options.model_path)
        self.device = _device(options.device)
        self.dtype = _dtype(options.dtype, self.device, self.config)
        if options.num_threads is not None:
            torch.set_num_threads(options.num_threads)
        started_s = time.monotonic()
        self.text = Text(options.model_path)
        self.end_ids = end_ids(options.model_path, self.config)
        self.prefill_size = options.chunked_prefill_size or _PREFILL_SIZE[self.device.type]
        self.runner = _runner(options, self.config, self.dtype, self.device, self.prefill_size)
        self.budget = options.max_total_tokens or _budget(self.runner, self.device)
        self.scheduler = Scheduler(self.runner, options, self.budget, self.end_ids, self.text.decode)
        self._random = random.Random(options.random_seed if options.random_seed is not None else secrets.randbits(64))
        self._random_lock = threading.Lock()
        self.scheduler.start()
        logger.info(
            "%s on %s in %s: ready after %.1f s, room for %d tokens",
            type(self.runner).__name__,
            self.device,
            str(self.dtype).removeprefix("torch."),
            time.monotonic() - started_s,
            self.budget,
        )

    @property
    def max_length(self) -> int:
        """Tokens of prompt and response together at most."""
        return self.runner.max_length

    def draw_seed(self) -> int:
        """A seed for a request that brought none."""
        with self._random_lock:
            return self._random.getrandbits(63)

    def check(self, request: Request) -> None:
        """Raise RequestError when a request can never be served: ids outside the vocabulary, too long."""
        num_prompt, num_new = len(request.prompt_ids), request.sampling.max_new_tokens
        if not num_prompt:
            raise RequestError("the prompt is empty; send at least one token")
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= self.runner.vocab_size:
            wrong = next(token for token in request.prompt_ids if not 0 <= token < self.runner.vocab_size)
            raise RequestError(f"token id {wrong} is outside the vocabulary of {self.runner.vocab_size}")
        if num_prompt + num_new > self.max_length:
            raise RequestError(
                f"the prompt has {num_prompt} tokens and max_new_tokens is {num_new}: "
                f"together more than the model's {self.max_length}"
            )
        if self.runner.tokens_needed(num_prompt, num_new) > self.budget:
            raise RequestError(
                f"{num_prompt} prompt tokens and {num_new} new ones need more than the {self.budget} tokens that "
                "are kept; start the engine with a larger --max-total-tokens"
            )

    def generate(self, requests: Sequence[Request]) -> None:
        """Check, submit and wait for requests; the results are in them."""
        for request in requests:
            self.check(request)
        self.scheduler.submit(requests)
        for request in requests:
            request.done.result()

    def close(self) -> None:
        """Abort what is in flight and stop."""
        self.scheduler.close()


def _runner(
    options: EngineOptions, config: dict[str, Any], dtype: torch.dtype, device: torch.device, chunk: int
) -> Runner:
    try:
        shape = shape_of(config)
    except KeyError as error:
        raise UsageError(f"{options.model_path}/config.json lacks {error}") from None
    deterministic = options.deterministic
    if shape is None:
        return FallbackRunner(options.model_path, dtype, device, chunk=chunk, deterministic=deterministic)
    return NativeRunner(options.model_path, shape, dtype, device, chunk=chunk, deterministic=deterministic)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no CUDA device here; use --device cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _dtype(name: str, device: torch.device, config: dict[str, Any]) -> torch.dtype:
    if name == "auto":
        # a CPU without native bfloat16 arithmetic is slower in it, and less exact
        name = (
            str(config.get("dtype") or config.get("torch_dtype") or "float32") if device.type == "cuda" else "float32"
        )
    return torch.bfloat16 if name in ("bfloat16", "float16") else torch.float32


def _budget(runner: Runner, device: torch.device) -> int:
    if device.type == "cuda":
        free_bytes = torch.cuda.mem_get_info(device)[0]
    else:
        free_bytes = min(psutil.virtual_memory().available, _cgroup_bytes())
    tokens = int(free_bytes * _MEMORY_SHARE[device.type]) // runner.bytes_per_token
    return max(tokens, runner.tokens_needed(1024, 1024))


def _cgroup_bytes() -> float:
    """What a container's limit leaves, or infinity."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if limit == "max" else max(0, int(limit) - used)
