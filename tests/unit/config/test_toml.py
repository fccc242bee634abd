"""Configuration files: reading, mistakes, and writing what reads back."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from slimrl.config import Config
from slimrl.config.flags import parse
from slimrl.config.resolve import resolve
from slimrl.config.settings import Setting, build, flatten, settings
from slimrl.config.toml import to_toml
from slimrl.errors import ConfigError


def problems_of(text: str, folder: Path) -> list[str]:
    file = folder / "run.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse(["--config", str(file)])
    assert all(str(file) in problem for problem in caught.value.problems)
    return [problem.removeprefix(f"{file}: ") for problem in caught.value.problems]


def test_keys_may_be_spelt_as_fields_or_as_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('[rollout]\nrollout_batch_size = 8\nprompt-data = "a.jsonl"\nrollout_stop = ["\\n", "x"]\n')
    rollout = parse(["--config", str(file)]).config.rollout
    assert (rollout.rollout_batch_size, rollout.prompt_data) == (8, ("a.jsonl",))
    assert rollout.rollout_stop == ("\n", "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[eval]\neval_topp = 8", "unknown key 'eval_topp' in [eval]; did you mean eval_top_p?"),
        ("[rolout]\nx = 8", "unknown table [rolout]; did you mean rollout?"),
        ("[rollout]\nlr = 8", "key 'lr' stands in [rollout]; it belongs in [optimizer]"),
        ("lr = 8", "key 'lr' stands outside of a table; it belongs in [optimizer]"),
        ("zzz = 8", "unknown key 'zzz'"),
        ("rollout = 8", "[rollout] must be a table, got 8"),
        ("[optimizer]\nlr = 'x'", "key 'lr' in [optimizer] must be a number, got 'x'"),
        ("[rollout]\nnum_rollout = 1.5", "key 'num_rollout' in [rollout] must be a whole number, got 1.5"),
        ("[rollout]\nnum_rollout = true", "key 'num_rollout' in [rollout] must be a whole number, got True"),
        ("[ckpt]\nsave = ''", "key 'save' in [ckpt] must be a path, got ''"),
        ("[grpo]\nuse_kl_loss = 1", "key 'use_kl_loss' in [grpo] must be true or false, got 1"),
        ("[grpo]\nkl_loss_type = 'k9'", "key 'kl_loss_type' in [grpo] must be one of k1, k2, k3, low_var_kl, got 'k9'"),
        ("[grpo]\nkl_loss_type = []", "key 'kl_loss_type' in [grpo] must be one of k1, k2, k3, low_var_kl, got []"),
        ("[rollout]\nrollout_stop = 'x'", "key 'rollout_stop' in [rollout] must be strings, got 'x'"),
        ("[rollout]\nrollout_stop = [1]", "key 'rollout_stop' in [rollout] must be strings, got [1]"),
        ("[optimizer]\nmin-lr = 1\nmin_lr = 1", "key 'min_lr' in [optimizer] is given twice, with - and with _"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_key_and_way_out(text: str, problem: str, tmp_path: Path) -> None:
    assert problems_of(text, tmp_path) == [problem]


def test_a_file_that_is_missing_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        parse(["--config", str(tmp_path / "nowhere.toml")])
    assert "not a TOML file" in problems_of("a = = b", tmp_path)[0]


WORDS = st.text(st.characters(exclude_categories=["Cs"]))
# a NUL cannot be in a path, and Path("a/") is Path("a") before it is written
PATHS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).map(Path)
SCALARS: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: WORDS,
    Path: PATHS,
}


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    if setting.choices:
        values: st.SearchStrategy[Any] = st.sampled_from(setting.choices)
    elif setting.item:
        values = st.lists(SCALARS[setting.item], max_size=3).map(tuple)
    else:
        values = SCALARS[setting.base]
    return st.none() | values if setting.default is None else values


CONFIGS = st.fixed_dictionaries({name: values_of(setting) for name, setting in settings().items()}).map(build)


@hypothesis_settings(deadline=None)  # time says nothing on a busy machine
@given(config=CONFIGS, origin=st.sampled_from(["default", "flag", "file a.toml", "file a\nb = 1"]))
def test_any_configuration_survives_being_written_and_read(config: Config, origin: str) -> None:
    text = to_toml(config, dict.fromkeys(settings(), origin))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        file.write_bytes(text.encode())
        parsed = parse(["--config", str(file)])
    assert parsed.config == config


def test_each_value_is_written_with_its_origin() -> None:
    config = build({"lr": 0.5, "num_steps_per_rollout": 2})
    origins = dict.fromkeys(settings(), "default") | {"lr": "flag", "num_steps_per_rollout": "derived"}
    lines = to_toml(config, origins).splitlines()
    assert "lr = 0.5  # flag" in lines
    assert "seed = 1234  # default" in lines
    assert "# num_steps_per_rollout = 2  # derived" in lines
    assert "# num_rollout is unset" in lines


def test_a_derived_value_is_derived_again_after_a_flag_changed_what_it_came_from(tmp_path: Path) -> None:
    config, origins = resolve(*_parsed("--rollout-batch-size", "8", "--n-samples-per-prompt", "4"))
    assert config.rollout.global_batch_size == 32
    (tmp_path / "run.toml").write_text(to_toml(config, origins))
    again, _ = resolve(*_parsed("--config", str(tmp_path / "run.toml"), "--rollout-batch-size", "16"))
    assert again.rollout.global_batch_size == 64


def _parsed(*argv: str) -> tuple[Config, Any]:
    parsed = parse(argv)
    return parsed.config, parsed.origins


def test_infinite_numbers_are_written_as_toml_knows_them(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text(to_toml(build({"clip_grad": math.inf}), dict.fromkeys(settings(), "flag")))
    assert flatten(parse(["--config", str(file)]).config)["clip_grad"] == math.inf
