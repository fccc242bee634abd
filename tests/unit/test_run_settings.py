"""What a run's processes are told: each setting that is handed on by name arrives under its own."""

from __future__ import annotations

from dataclasses import fields
from functools import reduce
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from slimrl.checkpoints import Start
from slimrl.cluster.crew import CrewSettings
from slimrl.config import Config
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.plan import make_plan
from slimrl.config.settings import build, flatten
from slimrl.observe.run_dir import RunDir
from slimrl.registry import Options, PluginReferences, resolve_all
from slimrl.train import crew_settings

HANDED_ON = {
    "sglang_server_concurrency": (7, "rollout.concurrency"),
    "sglang_max_running_requests": (9, "engine.max_running_requests"),
    "rollout_health_check_interval": (2.5, "rollout.health_check_interval_s"),
    "rollout_health_check_timeout": (3.5, "rollout.health_check_timeout_s"),
    "use_tensorboard": (False, "rollout.use_tensorboard"),
    "update_weights_pause": ("in_place", "trainer.pause"),
    "max_staleness": (3, "trainer.max_staleness"),
    "rollout_temperature": (0.5, "trainer.rollout_temperature"),
    "num_threads": (3, "trainer.num_threads"),
    "actor_num_nodes": (2, "trainer.num_machines"),
    "num_steps_per_rollout": (2, "trainer.num_steps_per_rollout"),
    "rollout_num_gpus": (2, "num_engines"),
    "rm_workers": (3, "rollout.scoring().num_workers"),
    "rm_timeout": (4.5, "rollout.scoring().timeout_s"),
    "rm_cache_size": (17, "rollout.scoring().cache_size"),
    "rollout_top_p": (0.9, "rollout.sampling().top_p"),
    "rollout_top_k": (11, "rollout.sampling().top_k"),
    "rollout_stop": (("x",), "rollout.sampling().stop"),
    "rollout_stop_token_ids": ((1,), "rollout.sampling().stop_token_ids"),
    "rollout_max_context_len": (40, "rollout.sampling().max_context_len"),
    "rollout_max_response_len": (6, "rollout.sampling().max_new_tokens"),
    "over_sampling_batch_size": (12, "rollout.fill().in_flight"),
    "max_unscored_fraction": (0.25, "rollout.fill().max_unscored_fraction"),
    "eval_max_response_len": (5, "evaluation.max_new_tokens"),
    "eval_temperature": (0.25, "evaluation.temperature"),
    "eval_top_p": (0.75, "evaluation.top_p"),
    "eval_top_k": (13, "evaluation.top_k"),
    "eval_min_new_tokens": (2, "evaluation.min_new_tokens"),
    "eval_max_context_len": (30, "evaluation.max_context_len"),
}
"""By setting: a value that is not the default, and what takes it."""
TURNED = {
    "seed": (5, ("trainer.seed", 5), ("engine.random_seed", 5)),
    "deterministic": (True, ("trainer.deterministic", True), ("engine.deterministic", True)),
    "max_sampling_rounds": (3, ("rollout.fill().max_finished", 12)),
    "on_insufficient": ("fallback", ("rollout.fill().falls_back", True)),
    "on_unscored": ("retry", ("rollout.scoring().retries", 1)),
    "opd_teacher_url": ("http://a:1/generate", ("rollout.teacher_url", "http://a:1")),
    "rollout_external_engine_addrs": (("a:1",), ("external_engines", ("http://a:1",)), ("num_engines", 0)),
}
"""The same of settings that become something else, or arrive in several places."""
BASE = {
    "prompt_data": ("prompts.jsonl",),
    "rollout_batch_size": 4,
    "n_samples_per_prompt": 2,
    "num_rollout": 4,
    "rollout_max_response_len": 4,
    "rm_type": "f1",
    "device": "cpu",
    "num_threads": 2,
}


def told(checkpoint: Path, **settings: Any) -> CrewSettings:
    config = build({**flatten(Config()), **BASE, "hf_checkpoint": checkpoint, **settings})
    references = PluginReferences.from_config(config.rollout, config.grpo)
    plugins = resolve_all(references, Options([getattr(config, field.name) for field in fields(config)]))
    plan = make_plan(config, num_prompts=8)
    return crew_settings(config, plan, plugins, RunDir(Path("run")), Start())


def value_at(found: CrewSettings, place: str) -> object:
    if place.startswith("evaluation."):
        sampling = found.rollout.eval_sampling(EvalDataset("set", Path("set.jsonl")))
        return getattr(sampling, place.removeprefix("evaluation."))

    def step(value: object, name: str) -> object:
        inner = attrgetter(name.removesuffix("()"))(value)
        return inner() if name.endswith("()") else inner

    return reduce(step, place.split("."), found)


@pytest.fixture(scope="module")
def plain(tiny_checkpoint: Path) -> CrewSettings:
    return told(tiny_checkpoint)


@pytest.mark.parametrize("setting", HANDED_ON)
def test_a_setting_arrives_where_it_is_read(setting: str, plain: CrewSettings, tiny_checkpoint: Path) -> None:
    value, place = HANDED_ON[setting]
    assert value_at(plain, place) != value
    assert value_at(told(tiny_checkpoint, **{setting: value}), place) == value


@pytest.mark.parametrize("setting", TURNED)
def test_a_setting_becomes_what_it_says(setting: str, plain: CrewSettings, tiny_checkpoint: Path) -> None:
    value, *expected = TURNED[setting]
    after = told(tiny_checkpoint, **{setting: value})
    for place, wanted in expected:
        assert value_at(plain, place) != wanted
        assert value_at(after, place) == wanted
