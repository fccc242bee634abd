"""Batches of conversations that are trained on as they are: no engine, no reward."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from slimrl.config.hf_folder import open_hf_folder
from slimrl.data.conversation import ConversationEncoder
from slimrl.data.encoder import PromptEncoder
from slimrl.data.prompts import PromptRow
from slimrl.data.source import PromptSource
from slimrl.data.training import open_training
from slimrl.engines.embedded.text import end_ids
from slimrl.errors import DataError, RolloutError
from slimrl.observe.run_dir import RunDir, write_atomically
from slimrl.registry.plugin_set import PluginSet
from slimrl.rollout.batch import make_batch
from slimrl.rollout.events import tell_outcomes
from slimrl.rollout.failures import failure_metrics
from slimrl.rollout.record import Record
from slimrl.rollout.settings import RolloutSettings
from slimrl.types import Group, Score, Status, TrainBatch, TrainReport, Verdict

STATE = "rollout.json"


class ConversationManager:
    """Hands out batches of rows and keeps the record, as the rollout manager does of generated ones."""

    def __init__(self, settings: RolloutSettings, plugins: PluginSet, run: RunDir, *, start: int) -> None:
        config = settings.rollout
        prompts = PromptEncoder.of_training(config, settings.hf_checkpoint)
        files, left_out = open_training(settings.prompt_data, config, prompts, settings.hf_checkpoint)
        if left_out:
            run.event("rows_left_out", files=[asdict(entry) for entry in left_out])
        model = open_hf_folder(settings.hf_checkpoint, "--hf-checkpoint")
        self._settings = settings
        self._run = run
        self._encoder = ConversationEncoder(
            prompts.tokenizer,
            stop_token_ids=end_ids(model.path, model.config),
            variables=json.loads(config.apply_chat_template_kwargs or "{}"),
            max_len=config.rollout_max_context_len or model.max_positions,
        )
        self.source = PromptSource(
            files,
            lambda row, where: [],
            group_size=1,
            shuffle=config.rollout_shuffle,
            seed=config.rollout_seed,
            parts=files.parts,
            source_of=files.source,
        )
        self._last: Sequence[Group] = ()
        self._record = Record(run, plugins, use_tensorboard=settings.use_tensorboard, start=start)

    async def generate(self, step: int, version: int) -> tuple[TrainBatch, dict[str, float]]:
        """The next rows. One that the template cannot show is a FAILED sample; RolloutError where all are."""
        groups = self.source.take(self._settings.batch_size)
        for group in groups:
            self._fill(group, version)
        self._last = groups
        tell_outcomes(self._run, groups, "sft", step=step)
        batch = make_batch(step, groups)
        if not len(batch):
            raise RolloutError(
                f"step {step}: no conversation can be trained on; the first: {groups[0].samples[0].reason}"
            )
        trained = int(batch.loss_mask.sum())
        metrics = {
            "rollout/groups": float(len(groups)),
            "rollout/response_len_mean": trained / len(batch),
            "rollout/num_tokens": float(trained),
            "rollout/conversation_len_max": float((batch.prompt_lengths + batch.response_lengths).max()),
            **failure_metrics(groups, "rollout/"),
        }
        return replace(batch, advantages=np.ones(len(batch), np.float32)), metrics

    def _fill(self, group: Group, version: int) -> None:
        (sample,) = group.samples
        tools = sample.metadata.get("tools")
        try:
            made = self._encoder.encode(PromptRow(sample.prompt, tools=tools), f"sample {sample.sample_id}")
        except DataError as error:
            sample.status, sample.reason, sample.failure = Status.FAILED, str(error), "conversation"
            group.verdict = Verdict(keep=False, reason="conversation")
            return
        sample.prompt_tokens = made.prompt_tokens
        count = len(made.tokens)
        sample.append(made.tokens, [0.0] * count, [version] * count)
        sample.loss_mask = made.loss_mask
        sample.status = Status.COMPLETED
        sample.score = Score.scored(0.0)
        group.verdict = Verdict(keep=True)

    def record(self, step: int, metrics: Mapping[str, float], report: TrainReport, batch: TrainBatch) -> None:
        """Write a trained step into the run folder: its conversations as they were trained on, and its metrics."""
        self._record.samples(step, self._last, {})
        self.log(step, metrics)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step's metrics to the run folder and the trackers, if there are any."""
        self._record.metrics(step, metrics)

    def save(self, folder: Path) -> None:
        """Write the data position into a checkpoint."""
        write_atomically(folder / STATE, json.dumps({"source": self.source.state(), "buffer": []}))

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint's data position."""
        self.source.restore(json.loads((folder / STATE).read_text(encoding="utf-8"))["source"])

    async def close(self) -> None:
        """End the trackers."""
        self._record.close()
