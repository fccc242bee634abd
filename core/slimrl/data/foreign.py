"""Prompts from a data source of the user's: ours, with take, state and restore, or slime's class."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from slimrl.data.encoder import PromptEncoder
from slimrl.data.prompts import PromptRow
from slimrl.data.source import FOREIGN, sample_seed
from slimrl.errors import CheckpointError
from slimrl.protocols import DataSource
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.slime_arguments import set_values
from slimrl.registry.slime_sample import SlimeSample, flat
from slimrl.types import Group, Sample, Status


class ForeignSource:
    """Implements DataSource: what the user's source hands out, checked, with the tokens of prompts that have none."""

    def __init__(self, hook: RunHookFunction, encoder: PromptEncoder, *, group_size: int, seed: int) -> None:
        self._hook = hook
        self._encode = encoder.encode
        self._group_size = group_size
        made = hook(hook.args if hook.is_slime else hook.options)
        methods = ("get_samples", "save", "load") if hook.is_slime else ("take", "state", "restore")
        missing = [name for name in methods if not callable(getattr(made, name, None))]
        if missing:
            raise hook.broke(f"made {type(made).__name__}, which has no {', '.join(missing)}")
        self.own: Any = made  # Any: a class of the user's
        self._source: DataSource = SlimeSource(hook, made, group_size=group_size, seed=seed) if hook.is_slime else made

    def take(self, count: int) -> list[Group]:
        """The next `count` groups; RolloutError when the source breaks its contract."""
        if count <= 0:
            return []
        groups = list(self._hook.guarded(self._source.take, count))
        if len(groups) != count:
            raise self._hook.broke(f"returned {len(groups)} groups when asked for {count}")
        for group in groups:
            self._check(group)
        return groups

    def state(self) -> dict[str, Any]:
        """The position as JSON values, and whose it is."""
        state = self._hook.guarded(self._source.state)
        try:
            json.dumps(state)
        except (TypeError, ValueError) as error:
            raise self._hook.broke(f"returned a state that is no JSON value: {error}") from error
        return {FOREIGN: self._hook.resolved.name, "state": state}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a position that `state` returned; CheckpointError for one of other prompts."""
        if state.get(FOREIGN) != self._hook.resolved.name:
            raise CheckpointError(
                f"the checkpoint stands in the prompts of {state.get(FOREIGN) or '--prompt-data'}, not in those of "
                f"{self._hook.name}; give the same flags, or begin anew from its weights with --ref-load"
            )
        self._hook.guarded(self._source.restore, state["state"])

    def __len__(self) -> int:
        size: int = self._hook.guarded(len, self.own)
        return size

    def _check(self, group: Group) -> None:
        broke = self._hook.broke
        if not isinstance(group, Group) or not all(isinstance(one, Sample) for one in group):
            raise broke(f"returned {type(group).__name__} where a Group of Samples is due")
        if len(group) != self._group_size:
            raise broke(
                f"gave group {group.group_id} {len(group)} samples; --n-samples-per-prompt is {self._group_size}"
            )
        for sample in group:
            if sample.group_id != group.group_id:
                raise broke(f"gave group {group.group_id} sample {sample.sample_id} of group {sample.group_id}")
            if not sample.prompt_tokens:
                first = group.samples[0]
                is_same = sample is not first and sample.prompt == first.prompt
                sample.prompt_tokens = first.prompt_tokens if is_same else self._tokens(sample)

    def _tokens(self, sample: Sample) -> list[int]:
        tools = sample.metadata.get("tools")
        row = PromptRow(sample.prompt, sample.label, sample.metadata, tools if isinstance(tools, list) else None)
        return self._encode(row, f"{self._hook.name}, sample {sample.sample_id}")


class SlimeSource:
    """A data source of slime's as one of ours; its files are a part of the position."""

    def __init__(self, hook: RunHookFunction, own: Any, *, group_size: int, seed: int) -> None:
        self._hook = hook
        self._own = own
        self._group_size = group_size
        self._seed = seed
        self._next_group_id = 0

    def take(self, count: int) -> list[Group]:
        """Groups of what get_samples returns; a group that was added comes back as it was."""
        return [self._group(flat(entries)) for entries in self._own.get_samples(count)]

    def state(self) -> dict[str, Any]:
        """The files that `save` writes into the folder args.save, and what is counted here."""
        with tempfile.TemporaryDirectory() as folder:
            self._in_folder("save", self._own.save, folder)
            files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
        encoded = {name: base64.b64encode(content).decode() for name, content in files.items()}
        return {"next_group_id": self._next_group_id, "files": encoded}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Have `load` read those files in the folder args.load."""
        self._next_group_id = state["next_group_id"]
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state["files"].items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(content))
            self._in_folder("load", self._own.load, folder)

    def _in_folder(self, setting: str, method: Callable[[int], object], folder: str) -> None:
        args = self._hook.args
        before = getattr(args, setting)
        set_values(args, **{setting: folder})
        try:
            method(0)  # one position a folder: slime tells them apart by the number of the rollout
        finally:
            set_values(args, **{setting: before})

    def _group(self, entries: list[Any]) -> Group:
        if entries and all(isinstance(one, SlimeSample) for one in entries):
            samples = [one.write_back(getattr(self._hook.args, "reward_key", None)) for one in entries]
            return Group(samples[0].group_id, samples, source=entries[0].source_name)
        group_id, self._next_group_id = self._next_group_id, self._next_group_id + 1
        first = group_id * self._group_size
        return Group(group_id, [self._sample(one, group_id, first + place) for place, one in enumerate(entries)])

    def _sample(self, one: Any, group_id: int, sample_id: int) -> Sample:  # Any: has slime's attributes
        prompt = getattr(one, "prompt", None)
        if not prompt:
            raise ValueError(f"{type(one).__name__} has no prompt; a sample has prompt, label and metadata")
        return Sample(
            group_id=group_id,
            sample_id=sample_id,
            rollout_id=sample_id,
            prompt=prompt,
            prompt_tokens=[],
            label=getattr(one, "label", None),
            metadata=dict(getattr(one, "metadata", None) or {}),
            seed=sample_seed(self._seed, sample_id),
            status=Status.PENDING,
        )
