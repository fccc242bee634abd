"""Evaluation sets from flags or from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from slimrl.config import Config, EvalConfig, RolloutConfig
from slimrl.config.check import check
from slimrl.config.eval_rules import check_set
from slimrl.config.eval_sets import EvalDataset, eval_datasets
from slimrl.data.prompts import PromptKeys

YAML = """
eval:
  defaults:
    rm_type: math
    max_response_len: 64
    top_k: null
  datasets:
    - name: sums
      path: sums.jsonl
    - name: chat
      path: chat.jsonl
      custom_rm_path: judge.py:score
      reward_key: overall
      input_key: question
      temperature: 0
      stop: "###"
"""
TOML = """
[defaults]
rm_type = "math"
max_response_len = 64
[datasets.sums]
path = "sums.jsonl"
[datasets.chat]
path = "chat.jsonl"
custom_rm_path = "judge.py:score"
reward_key = "overall"
input_key = "question"
temperature = 0
stop = ["###"]
"""
EXPECTED = [
    EvalDataset("sums", Path("sums.jsonl"), rm_type="math", max_response_len=64),
    EvalDataset(
        "chat",
        Path("chat.jsonl"),
        rm_type="math",
        custom_rm_path="judge.py:score",
        reward_key="overall",
        input_key="question",
        max_response_len=64,
        temperature=0.0,
        stop=("###",),
    ),
]


def read(path: Path, text: str) -> tuple[list[EvalDataset], list[str]]:
    path.write_text(text)
    problems: list[str] = []
    return eval_datasets(EvalConfig(eval_config=path), problems), problems


@pytest.mark.parametrize(("name", "text"), [("sets.yaml", YAML), ("sets.toml", TOML)])
def test_a_file_of_either_kind_gives_sets_over_defaults(name: str, text: str, tmp_path: Path) -> None:
    assert read(tmp_path / name, text) == (EXPECTED, [])


def test_a_sets_reward_by_path_goes_before_its_reward_by_name() -> None:
    assert [dataset.reward for dataset in EXPECTED] == ["math", "judge.py:score"]


def test_flags_give_name_and_path() -> None:
    config = EvalConfig(eval_prompt_data=("a", "a.jsonl", "b", "b.jsonl", "odd"))
    assert [(d.name, d.path, d.reward) for d in eval_datasets(config, [])] == [
        ("a", Path("a.jsonl"), None),
        ("b", Path("b.jsonl"), None),
    ]


def test_keys_are_the_sets_else_evaluations_else_trainings() -> None:
    config, rollout = EvalConfig(eval_label_key="truth"), RolloutConfig(input_key="q", label_key="a")
    assert EXPECTED[1].keys(config, rollout) == ("question", "truth", "metadata")
    assert EXPECTED[0].keys(EvalConfig(), rollout) == ("q", "a", "metadata")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("datasets: [{name: a, path: p, rm_typ: math}]", "dataset 'a': unknown key 'rm_typ'; did you mean rm_type?"),
        ("datasets: [{name: a, path: p, temperature: hot}]", "'temperature' must be a number, got 'hot'"),
        ("datasets: [{name: a, path: p, top_p: 2}]", "'top_p' must be more than 0 and at most 1; got 2"),
        ("datasets: [{name: a}]", "dataset 'a': path must be given"),
        ("datasets: [a]", "dataset 1 must be a table, got 'a'"),
        ("datasets: {a: {path: p}, b: q}", "dataset 2 must be a table, got 'q'"),
        ("datasets: {a: {path: p}, b: }", "dataset 2 must be a table, got None"),
        ("datasets: []", "'datasets' must be a list of tables"),
        ("dataset: [{name: a, path: p}]", "unknown key 'dataset'; did you mean datasets?"),
        ("defaults: {path: x}\ndatasets: [{name: a, path: p}]", "defaults: unknown key 'path'"),
        ("defaults: [1]\ndatasets: [{name: a, path: p}]", "'defaults' must be a table"),
        ("- a", "expected a table with 'datasets'"),
        ("{", "not a YAML file"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    _, problems = read(tmp_path / "sets.yaml", text)
    assert any(said in problem for problem in problems), problems


def test_a_file_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    problems: list[str] = []
    assert eval_datasets(EvalConfig(eval_config=tmp_path / "no.toml"), problems) == []
    assert problems == [f"--eval-config {tmp_path / 'no.toml'}: No such file or directory"]


@pytest.mark.parametrize(
    ("own", "problem"),
    [
        (EvalDataset("s", Path("s"), k=(1, 5)), "'k' must be from 1 to the 4 responses per prompt"),
        (EvalDataset("s", Path("s"), k=(0,)), "got 0"),
        (EvalDataset("s", Path("s"), k=(8,), n_samples_per_eval_prompt=8), ""),
        (EvalDataset("s", Path("s"), min_new_tokens=17), "at least 17 new tokens but at most 16"),
        (EvalDataset("s", Path("s"), min_new_tokens=17, max_response_len=32), ""),
        (EvalDataset("s", Path("s"), group_rm=True), "'group_rm' has no effect"),
        (EvalDataset("s", Path("s"), group_rm=True, rm_type="math"), "'group_rm' has no effect"),
        (EvalDataset("s", Path("s"), group_rm=True, custom_rm_path="judge.py:score"), ""),
    ],
)
def test_a_sets_values_fit_together(own: EvalDataset, problem: str) -> None:
    said = list(check_set(own, EvalConfig(n_samples_per_eval_prompt=4), 16))
    assert [problem in one for one in said] == [True] * bool(problem)


def test_a_general_reward_key_is_that_of_sets_without_their_own(tmp_path: Path) -> None:
    sets, problems = read(tmp_path / "sets.yaml", YAML)
    assert not problems
    assert [own.reward_key for own in sets] == [None, "overall"]
    config = EvalConfig(eval_config=tmp_path / "sets.yaml", eval_reward_key="score")
    assert [own.reward_key for own in eval_datasets(config, [])] == ["score", "overall"]


def test_what_only_a_pass_rate_reads_is_refused_where_there_is_none(make_config: Callable[..., Config]) -> None:
    assert any(
        "--eval-pass-threshold has no effect" in p for p in check(make_config(eval=EvalConfig(eval_pass_threshold=0.5)))
    )
    assert check(make_config(eval=EvalConfig(eval_pass_threshold=0.5, log_passrate=True))) == []


@pytest.mark.parametrize(("own", "general", "expected"), [("a", "b", "a"), (None, "b", "b"), (None, None, "functions")])
def test_tools_are_under_the_sets_key_or_evaluations_or_trainings(
    own: str | None, general: str | None, expected: str
) -> None:
    dataset = EvalDataset("s", Path("s"), tool_key=own)
    keys = PromptKeys.of_evaluation(dataset, EvalConfig(eval_tool_key=general), RolloutConfig(tool_key="functions"))
    assert keys.tools == expected
