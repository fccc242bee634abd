"""The flags about checkpoints: what has no effect, and folders that would be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl.config import CkptConfig, TrainedConfig
from slimrl.config.checkpoints import check_checkpoints, save_hf_folder


@pytest.mark.parametrize(
    ("ckpt", "problem"),
    [
        (CkptConfig(max_checkpoints_to_keep=2), "--max-checkpoints-to-keep 2 has no effect without --save"),
        (CkptConfig(ckpt_step=3), "--ckpt-step 3 has no effect without --load"),
        (CkptConfig(async_save=True), "--async-save has no effect without --save-interval"),
        (CkptConfig(save_hf="out/{step}"), "{rollout_id} is the only thing that it may have in braces"),
        (CkptConfig(save_hf="out/{rollout_id"), "{rollout_id} is the only thing that it may have in braces"),
        (CkptConfig(save_hf="out/{}"), "{rollout_id} is the only thing that it may have in braces"),
    ],
)
def test_a_flag_without_effect_is_named(ckpt: CkptConfig, problem: str) -> None:
    (said,) = check_checkpoints(ckpt)
    assert problem in said


def test_a_folder_of_megatron_is_not_written_to_nor_given_to_engines(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / ".metadata").touch()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release")
    (said,) = check_checkpoints(CkptConfig(save=tmp_path))
    assert f"--save {tmp_path} holds checkpoints of Megatron" in said
    (said,) = check_checkpoints(CkptConfig(hf_checkpoint=tmp_path))
    assert f"--hf-checkpoint {tmp_path} has its weights in Megatron's format" in said


def test_adapters_are_not_saved_in_pieces() -> None:
    (said,) = check_checkpoints(CkptConfig(ckpt_format="torch_dist"), TrainedConfig(lora_rank=4))
    assert "--ckpt-format torch_dist has no effect with --lora-rank" in said


@pytest.mark.parametrize(
    "template", ["base", "./base", "{here}/base", "bas{{rollout_id}}", "{here}/b{{rollout_id:03d}}"]
)
def test_an_export_never_replaces_the_model_that_the_run_starts_from(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "base" if template.endswith("base") else "bas7" if template.startswith("bas") else "b012"
    ckpt = CkptConfig(hf_checkpoint=Path(name), save_hf=template.format(here=tmp_path))
    (said,) = check_checkpoints(ckpt)
    assert f"would replace --hf-checkpoint {name}" in said


def test_an_export_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    (said,) = check_checkpoints(CkptConfig(save_hf=f"{tmp_path}/notes/{{rollout_id}}"))
    assert said.endswith(f"cannot be made: {tmp_path}/notes is a file; name another folder")


def test_an_export_replaces_only_what_is_a_checkpoint(tmp_path: Path) -> None:
    template = f"{tmp_path}/out{{rollout_id}}"
    assert list(check_checkpoints(CkptConfig(save_hf=template))) == []
    for number, name in ((1, "config.json"), (2, "adapter_config.json"), (3, "thesis.tex"), (4, None)):
        folder = save_hf_folder(template, number)
        folder.mkdir()
        if name is not None:
            (folder / name).write_text("{}")
    (said,) = check_checkpoints(CkptConfig(save_hf=template))
    assert f"would replace {tmp_path}/out3, which is no Hugging Face checkpoint" in said
