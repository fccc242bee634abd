"""Flags: spelling, types, precedence, origins and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl.config import Config
from slimrl.config.flags import NEEDLESS, parse
from slimrl.config.settings import flatten, settings
from slimrl.errors import ConfigError


def problems_of(*argv: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(argv)
    return caught.value.problems


def test_without_flags_everything_has_its_default() -> None:
    parsed = parse([])
    assert parsed.config == Config()
    assert set(parsed.origins.values()) == {"default"}


def test_every_kind_of_value_is_read() -> None:
    argv = (
        "--hf-checkpoint some/model --rollout-batch-size 8 --lr 1e-5 --rm-type math --kl-loss-type k3 "
        "--apply-chat-template --no-progress --rollout-top-k -1 --rollout-stop-token-ids 1 2 "
        "--eval-prompt-data a x.jsonl b y.jsonl"
    )
    config = parse(argv.split()).config
    assert config.ckpt.hf_checkpoint == Path("some/model")
    assert config.rollout.rollout_batch_size == 8
    assert config.optimizer.lr == 1e-5
    assert config.rollout.rm_type == "math"
    assert config.grpo.kl_loss_type == "k3"
    assert config.rollout.apply_chat_template is True
    assert config.observe.progress is False
    assert config.rollout.rollout_top_k == -1
    assert config.rollout.rollout_stop_token_ids == (1, 2)
    assert config.eval.eval_prompt_data == ("a", "x.jsonl", "b", "y.jsonl")


def test_a_flag_may_be_joined_to_its_value_and_spelt_with_underscores() -> None:
    config = parse(["--lr=0.5", "--rollout_batch_size", "4", "--rollout-stop=--end"]).config
    assert (config.optimizer.lr, config.rollout.rollout_batch_size) == (0.5, 4)
    assert config.rollout.rollout_stop == ("--end",)


def test_the_last_of_a_repeated_flag_counts() -> None:
    assert parse(["--lr", "1", "--lr", "2"]).config.optimizer.lr == 2


def test_a_misspelt_flag_gets_the_nearest_one() -> None:
    assert problems_of("--n-sample-per-prompt", "3") == (
        "unknown flag --n-sample-per-prompt; did you mean --n-samples-per-prompt?",
    )


def test_a_flag_like_no_other_gets_no_suggestion() -> None:
    assert problems_of("--swizzle") == ("unknown flag --swizzle",)


def test_a_flag_of_slimes_that_is_not_needed_is_refused_with_the_reason() -> None:
    (said,) = problems_of("--loss-mask-type", "qwen3")
    assert said.startswith("--loss-mask-type is not needed: the checkpoint's own chat template says which tokens")


@pytest.mark.parametrize("flag", ["log-level", "mem-fraction-static", "cuda-graph-max-bs"])
def test_a_flag_for_sglangs_servers_is_refused_with_where_to_give_it(flag: str) -> None:
    assert problems_of(f"--sglang-{flag}", "2") == (
        f"unknown flag --sglang-{flag}: slimrl starts no SGLang server; give it --{flag} where you start it, and "
        "name it with --rollout-external-engine-addrs",
    )
    (said,) = problems_of("--sglang-server-concurency", "2")
    assert said.endswith("; did you mean --sglang-server-concurrency?")


@pytest.mark.parametrize("flag", ["colocate", "swiglu", "untie-embeddings-and-output-weights"])
def test_a_flag_of_slimes_scripts_that_says_what_is_so_anyway_is_refused_with_the_reason(flag: str) -> None:
    (said,) = problems_of(f"--{flag}")
    assert said.startswith(f"--{flag} is not needed: ")
    assert "leave it out" in said


def test_no_flag_is_listed_as_needless() -> None:
    assert not NEEDLESS.keys() & {name.replace("_", "-") for name in settings()}


GUIDE = (
    "actor-num-gpus-per-node actor-num-nodes adam-beta1 adam-beta2 advantage-estimator apply-chat-template "
    "balance-data buffer-filter-path calculate-per-token-loss clip-grad context-parallel-size custom-rm-path "
    "dynamic-sampling-filter-path entropy-coef eps-clip eps-clip-high eval-interval eval-max-response-len "
    "eval-prompt-data eval-top-p expert-model-parallel-size expert-tensor-parallel-size global-batch-size "
    "hf-checkpoint input-key kl-loss-coef kl-loss-type label-key load lr lr-decay-style max-tokens-per-gpu "
    "n-samples-per-eval-prompt n-samples-per-prompt num-rollout num-steps-per-rollout optimizer "
    "over-sampling-batch-size partial-rollout pipeline-model-parallel-size prompt-data recompute-granularity "
    "recompute-method recompute-num-layers ref-load rm-type rollout-batch-size rollout-max-response-len "
    "rollout-num-gpus rollout-num-gpus-per-engine rollout-shuffle rollout-temperature rollout-top-k rollout-top-p "
    "rotary-base save save-interval sequence-parallel tensor-model-parallel-size use-dynamic-batch-size use-kl-loss "
    "use-tis weight-decay"
)
"""The flags of slime's configuration guide, but for those that are refused with a reason."""


@pytest.mark.parametrize("flag", GUIDE.split())
def test_a_flag_of_slimes_guide_is_a_flag_here(flag: str) -> None:
    assert flag.replace("-", "_") in settings()


def test_only_switches_have_a_negative() -> None:
    assert problems_of("--no-lr") == ("unknown flag --no-lr",)


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--lr", "fast"], "--lr takes a number; got 'fast'"),
        (["--lr"], "--lr takes a number; got nothing"),
        (["--lr", "1", "2"], "--lr takes a number; got '1 2'"),
        (["--rollout-batch-size", "1.5"], "--rollout-batch-size takes a whole number; got '1.5'"),
        (["--use-kl-loss", "true"], "--use-kl-loss takes no value; got 'true'"),
        (["--kl-loss-type", "k9"], "--kl-loss-type takes one of k1, k2, k3, low_var_kl; got 'k9'"),
        (["--rollout-stop-token-ids", "1", "x"], "--rollout-stop-token-ids takes whole numbers; got '1 x'"),
        (["--config"], "--config takes a path; got nothing"),
        (["stray", "--lr", "1"], "unexpected argument 'stray'; a flag begins with --"),
    ],
)
def test_a_wrong_value_says_what_is_expected_and_what_came(argv: list[str], problem: str) -> None:
    assert problems_of(*argv) == (problem,)


@pytest.mark.parametrize("flag", ["--load", "--save", "--hf-checkpoint", "--run-dir", "--custom-rm-path", "--rm-type"])
@pytest.mark.parametrize("join", [False, True])
def test_the_empty_value_of_a_variable_that_is_not_set_is_refused(flag: str, join: bool) -> None:
    (said,) = problems_of(f"{flag}=") if join else problems_of(flag, "")
    assert said.startswith(f"{flag} takes a ")
    assert said.endswith("; got an empty one; leave it out, or give it a value")


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[optimizer]\nlr = "x"\n')
    problems = problems_of("--lrr", "1", "--seed", "x", "--config", str(file))
    assert len(problems) == 3


def test_a_flag_overrides_the_file_and_the_file_the_default(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[optimizer]\nlr = 1e-5\nweight-decay = 0\n")
    parsed = parse(["--lr", "3", "--config", str(file)])
    assert (parsed.config.optimizer.lr, parsed.config.optimizer.weight_decay) == (3.0, 0.0)
    assert parsed.config.optimizer.adam_beta1 == 0.9
    origins = [parsed.origins[key] for key in ("lr", "weight_decay", "adam_beta1")]
    assert origins == ["flag", f"file {file}", "default"]


def test_none_unsets_what_the_file_sets(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[ckpt]\nsave_interval = 5\n")
    assert parse(["--config", str(file), "--save-interval", "None"]).config.ckpt.save_interval is None


def test_a_switch_of_the_command_is_no_setting() -> None:
    parsed = parse(["--dry-run"], switches={"dry-run": "Start nothing."})
    assert parsed.switches == {"dry-run"}
    assert problems_of("--dry-run") == ("unknown flag --dry-run",)


def test_help_lists_every_flag_under_its_category_with_its_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"], switches={"dry-run": "Start nothing."})
    assert caught.value.code == 0
    text = capsys.readouterr().out
    words = set(text.replace(",", " ").split())
    assert {setting.flag for setting in settings().values()} <= words
    assert {"--config", "--dry-run"} <= words
    sections = [
        text.index(f" {category} options ") for category in dict.fromkeys(s.category for s in settings().values())
    ]
    assert sections == sorted(sections)
    flat = " ".join(text.replace("│", " ").split())
    assert "Responses per prompt: the size of one group. (default: 1)" in flat


def test_every_setting_has_a_help_text_and_one_name() -> None:
    table = settings()
    assert all(setting.help.endswith(".") for setting in table.values())
    assert table.keys() == flatten(Config()).keys()


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        (["--rm-type", "f1"], ("f1", (), None)),
        (["--reward", "f1=2"], (None, ("f1=2",), None)),
        (["--custom-rm-path", "b.py:score"], (None, (), "b.py:score")),
        ([], ("math", (), "a.py:score")),
    ],
)
def test_a_reward_given_as_a_flag_goes_before_every_reward_of_the_file(
    tmp_path: Path, words: list[str], chosen: tuple[str | None, tuple[str, ...], str | None]
) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[rollout]\nrm-type = "math"\ncustom-rm-path = "a.py:score"\nlabel-key = "label"\n')
    parsed = parse(["--config", str(file), *words])
    rollout = parsed.config.rollout
    assert (rollout.rm_type, rollout.reward, rollout.custom_rm_path) == chosen
    assert rollout.label_key == "label"
    assert parsed.origins["custom_rm_path"] == (
        "flag" if "--custom-rm-path" in words else "default" if words else f"file {file}"
    )


def test_async_is_short_for_train_async() -> None:
    assert parse(["--async"]).config.rollout.train_async
    assert parse(["--train-async"]).config.rollout.train_async
    assert parse(["--train-async", "--no-train-async"]).config.rollout.train_async is False
