"""How one embedded engine is started, and the command line that says so."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DeviceName = Literal["auto", "cpu", "cuda"]
DtypeName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class EngineOptions:
    """Everything an engine needs to know before it loads a model."""

    model_path: Path
    """Folder of a Hugging Face checkpoint (config.json, safetensors, tokenizer)."""
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    """auto: what config.json says on a GPU, float32 on a CPU."""
    num_threads: int | None = None
    max_running_requests: int = 256
    max_queued_requests: int = 8192
    max_total_tokens: int | None = None
    """Tokens whose keys and values are kept at most; None takes a share of the free memory."""
    chunked_prefill_size: int | None = None
    """Prompt tokens computed between two decode steps at most. Default: 1024, on a GPU 8192."""
    deterministic: bool = False
    """A request's tokens and log-probs do not depend on what runs beside it, to the last bit."""
    random_seed: int | None = None
    weight_version: str = "0"


@dataclass(frozen=True)
class ServerOptions:
    """The engine and where it listens."""

    engine: EngineOptions
    host: str = "127.0.0.1"
    port: int = 30000
    """0 takes a free port."""
    port_file: Path | None = None
    """Written once the server answers: the port as text."""
    parent_pid: int | None = None
    """The server stops when this process is gone."""
    log_level: str = "info"


def parse_args(argv: Sequence[str], prog: str) -> ServerOptions:
    """Options from a command line; exits with 2 and a message on a wrong one."""
    parser = argparse.ArgumentParser(
        prog=prog, description="Serve one model over SGLang's HTTP contract, on a CPU or a GPU.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--model-path", type=Path, required=True, help="folder of a Hugging Face checkpoint")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)")
    add("--port", type=_at_least(0), default=30000, help="0 takes a free port (default: %(default)s)")
    add("--port-file", type=Path, help="write the port here once the server answers")
    add("--parent-pid", type=_at_least(1), help="stop when this process is gone")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: float32 on a CPU")
    add("--num-threads", type=_at_least(1), help="CPU threads of the model's arithmetic")
    add("--max-running-requests", type=_at_least(1), default=256, help="decoded at once (default: %(default)s)")
    add("--max-queued-requests", type=_at_least(1), default=8192, help="more get HTTP 503 (default: %(default)s)")
    add("--max-total-tokens", type=_at_least(1), help="tokens kept in the KV cache (default: by free memory)")
    add(
        "--chunked-prefill-size",
        type=_at_least(16),
        help="prompt tokens computed between two decode steps (default: 1024, on a GPU 8192)",
    )
    add(
        "--enable-deterministic-inference",
        action="store_true",
        help="results do not depend on what runs beside a request, to the last bit; slower",
    )
    add("--random-seed", type=_at_least(0), help="seed of requests that bring none (default: from the system)")
    add("--weight-version", default="0", help="version of the weights in --model-path (default: %(default)s)")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    given = parser.parse_args(argv)
    engine = EngineOptions(
        model_path=given.model_path,
        device=given.device,
        dtype=given.dtype,
        num_threads=given.num_threads,
        max_running_requests=given.max_running_requests,
        max_queued_requests=given.max_queued_requests,
        max_total_tokens=given.max_total_tokens,
        chunked_prefill_size=given.chunked_prefill_size,
        deterministic=given.enable_deterministic_inference,
        random_seed=given.random_seed,
        weight_version=given.weight_version,
    )
    return ServerOptions(
        engine=engine,
        host=given.host,
        port=given.port,
        port_file=given.port_file,
        parent_pid=given.parent_pid,
        log_level=given.log_level,
    )


def _at_least(least: int) -> type[int]:
    class Number(int):
        def __new__(cls, text: str) -> Number:
            value = int(text)
            if value < least:
                raise argparse.ArgumentTypeError(f"{text} is below {least}")
            return super().__new__(cls, value)

    Number.__name__ = "int"
    return Number
