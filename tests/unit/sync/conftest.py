"""An embedded engine on the tiny model, and weights to send it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command


@pytest.fixture(scope="module")
def engine_url(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an engine that serves the tiny model."""
    settings = EngineSettings(tiny_checkpoint, device="cpu", dtype="float32", num_threads=1)
    with EngineProcess(embedded_command(settings), tmp_path_factory.mktemp("engine") / "engine.log") as process:
        yield process.start()
