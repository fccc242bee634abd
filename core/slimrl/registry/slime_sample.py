"""A sample under slime's attribute names: read, changed, and written back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, ClassVar, Final

from slimrl.types import Group, Prompt, Sample, Score, Status

SampleStatus = Status
STATUSES: Final = ", ".join(status.value for status in Status)


class SlimeSample:
    """What a function written for slime sees of a sample, and may change; `write_back` makes the changes the sample's.

    `tokens` is prompt and response; an attribute that slime does not have is the sample's own.
    """

    Status: ClassVar[type[StrEnum]] = Status

    def __init__(self, sample: Sample, *, prompt: Prompt | None = None, source: str = "") -> None:
        self._sample = sample
        self.source_name = source
        self.prompt = sample.prompt if prompt is None else prompt
        self.tokens = [*sample.prompt_tokens, *sample.tokens]
        self.response_length = len(sample.tokens)
        self.response = sample.response
        self.loss_mask: list[int] | None = list(sample.loss_mask) if sample.tokens else None
        self.rollout_log_probs: list[float] | None = list(sample.log_probs) if sample.tokens else None
        self.teacher_log_probs: list[float] | None = list(sample.teacher_log_probs) or None
        self.weight_versions: list[Any] = list(dict.fromkeys(sample.weight_versions))
        # Any: what the user's reward returned; None before scoring
        self.reward: Any = None if sample.score is None else sample.score.reward
        self.status: Any = sample.status  # Any: slime's own enumeration may be set, which tells by its value
        self.metadata = sample.metadata
        self.remove_sample = False
        self.index = sample.sample_id
        self.group_index = sample.group_id
        self.rollout_id: int | None = sample.rollout_id

    def __getattr__(self, name: str) -> Any:  # Any: any attribute of the sample
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._sample, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> SlimeSample:
        """A copy with a sample of its own: what a fan-out makes its siblings of."""
        made = copy.copy(self)
        made._sample = copy.deepcopy(self._sample, memo)
        for name, value in vars(self).items():
            if name not in ("_sample", "Status"):
                setattr(made, name, copy.deepcopy(value, memo))
        return made

    @property
    def effective_response_length(self) -> int:
        """Response tokens that are trained on."""
        return self.response_length if self.loss_mask is None else sum(self.loss_mask)

    def get_reward_value(self, args: Any) -> float | None:  # Any: slime's args
        """The number that is trained on, after `--reward-key`; None for a sample without a score."""
        known = self._sample.score
        if known is not None and self.reward is known.reward:
            return known.value
        return None if self.reward is None else score_of(self.reward, getattr(args, "reward_key", None)).value

    def append_response_tokens(
        self,
        tokens: Sequence[int],
        log_probs: Sequence[float] | None = None,
        trainable: bool = True,
        meta_info: Mapping[str, Any] | None = None,
        text: str | None = None,
        update_terminal_info: bool = True,
    ) -> None:
        """Append response tokens with their log-probs and mask; those of a tool are not trainable."""
        if trainable and log_probs is None:
            raise ValueError("append_response_tokens: trainable tokens need log_probs")
        log_probs = [0.0] * len(tokens) if log_probs is None else list(log_probs)
        if len(log_probs) != len(tokens):
            raise ValueError(f"append_response_tokens: {len(tokens)} tokens and {len(log_probs)} log_probs")
        self.loss_mask = [*(self.loss_mask or []), *[int(trainable)] * len(tokens)]
        self.rollout_log_probs = [*(self.rollout_log_probs or []), *log_probs]
        self.tokens = [*self.tokens, *tokens]
        self.response_length += len(tokens)
        self.response += text or ""
        if meta_info is not None:
            self._read(meta_info, update_terminal_info)

    def update_from_meta_info(self, args: Any, meta_info: Mapping[str, Any]) -> None:  # Any: slime's args
        """Take weight version and status from an engine's answer."""
        self._read(meta_info, True)

    def _read(self, meta_info: Mapping[str, Any], is_last: bool) -> None:
        if "weight_version" in meta_info:
            self.weight_versions.append(meta_info["weight_version"])
        reason = (meta_info.get("finish_reason") or {}).get("type")
        if is_last and reason is not None:
            found = {"length": Status.TRUNCATED, "stop": Status.COMPLETED, "abort": Status.ABORTED}.get(reason)
            self.status = found or self.status

    def write_back(self, reward_key: str | None = None, *, version: int | None = None) -> Sample:
        """Make the changes the sample's, which is returned; ValueError names the sample and what does not fit.

        `version`: of the weights that wrote new tokens, where the answers of the engine do not say.
        """
        sample, length = self._sample, self.response_length
        if not self.tokens:
            self.tokens = list(sample.prompt_tokens)
        if not 0 <= length < max(len(self.tokens), 1):
            raise self._wrong(f"response_length {length} of {len(self.tokens)} tokens (prompt and response)")
        cut = len(self.tokens) - length
        prompt, response = list(map(int, self.tokens[:cut])), list(map(int, self.tokens[cut:]))
        mask = [1] * length if self.loss_mask is None else [float(value) for value in self.loss_mask]
        log_probs = self.rollout_log_probs
        if log_probs is None and length:
            raise self._wrong(
                f"{length} response tokens without rollout_log_probs; ask the engine with return_logprob, and set them"
            )
        log_probs = [float(value) for value in log_probs or ()]
        for name, values in (("loss_mask", mask), ("rollout_log_probs", log_probs)):
            if len(values) != length:
                raise self._wrong(f"{name} has {len(values)} entries for a response_length of {length}")
        if not set(mask) <= {0, 1}:
            raise self._wrong("loss_mask has other values than 0 and 1")
        mask = list(map(int, mask))
        versions = self._versions(response, version)
        status = self._read_status(length)
        if prompt != sample.prompt_tokens:
            sample.prompt_tokens = prompt
        sample.tokens, sample.log_probs, sample.loss_mask, sample.weight_versions = response, log_probs, mask, versions
        sample.response, sample.status, sample.metadata = self.response, status, self.metadata
        if self.remove_sample:
            sample.loss_mask = [0] * length
        known = None if sample.score is None else sample.score.reward
        if self.reward is not known:
            try:
                sample.score = None if self.reward is None else score_of(self.reward, reward_key)
            except (ValueError, TypeError) as error:
                raise self._wrong(str(error)) from None
        return sample

    def _versions(self, response: list[int], version: int | None) -> list[int]:
        """A weight version for each response token: those that were there keep theirs."""
        old = self._sample.weight_versions
        begun = 0
        while begun < min(len(old), len(response)) and response[begun] == self._sample.tokens[begun]:
            begun += 1
        if len(response) == begun:
            return old[:begun]
        # One entry an answer of the engine: which tokens are of which is not told, so the oldest counts for all.
        said = [int(one) for one in self.weight_versions[len(dict.fromkeys(old)) :] if str(one).isdigit()]
        found = min(said) if said else version
        return old[:begun] + [max(old, default=0) if found is None else found] * (len(response) - begun)

    def _read_status(self, length: int) -> SampleStatus:
        value = getattr(self.status, "value", self.status)
        try:
            status = Status(value)
        except ValueError:
            raise self._wrong(f"status {value!r} is none of {STATUSES}") from None
        return Status.COMPLETED if status is Status.PENDING and length else status

    def _wrong(self, said: str) -> ValueError:
        return ValueError(f"sample {self._sample.sample_id}: {said}")


def views(group: Iterable[Sample], *, prompt: Callable[[Sample], Prompt] | None = None) -> list[SlimeSample]:
    """The samples of a group under slime's names."""
    source = group.source if isinstance(group, Group) else ""
    return [SlimeSample(one, prompt=prompt and prompt(one), source=source) for one in group]


def flat(entries: object) -> list[Any]:  # Any: whatever a user's function put into a list
    """The entries of lists within lists: a fan-out of slime's is a list in the place of a sample."""
    if not isinstance(entries, list | tuple):
        return [entries]
    return [one for entry in entries for one in flat(entry)]


def score_of(reward: Any, key: str | None) -> Score:  # Any: what a user's function set
    """A reward that a function of slime's set: a number, or a mapping of which `key` is trained on."""
    if isinstance(reward, Score):
        return reward
    if not isinstance(reward, Mapping):
        return Score.scored(_finite(reward), reward=reward)
    name = next(iter(reward)) if key is None and len(reward) == 1 else key
    if name not in reward:
        raise ValueError(
            f"the reward has the keys {', '.join(map(repr, reward))}; --reward-key says which is trained on"
        )
    numbers = {str(k): float(v) for k, v in reward.items() if isinstance(v, int | float) and math.isfinite(v)}
    return Score.scored(_finite(reward[name]), reward=dict(reward), components=numbers)


def _finite(value: Any) -> float:  # Any: as above
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"the reward {value!r} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"the reward is {number}, which is not finite")
    return number
