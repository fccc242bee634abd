"""The critic against a slow version: transformers' token classifier, one sample at a time, double precision."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, LlamaConfig, LlamaForCausalLM

from slimrl import AdvantageInput, Advantages, advantage_traits, gae
from slimrl.config import CkptConfig, GrpoConfig, ModelConfig, OptimizerConfig, PerfConfig, TrainedConfig
from slimrl.config.layout import SINGLE, Layout
from slimrl.errors import CheckpointError, TrainError
from slimrl.megatron.parallel import shut_down_parallel
from slimrl.megatron.trainer import MegatronTrainer
from slimrl.types import TrainBatch

Make = Callable[..., MegatronTrainer]
MakeBatch = Callable[..., TrainBatch]
GAMMA, LAMBD, CLIP, CRITIC_LR = 0.9, 0.8, 0.05, 5e-4
ADAM = OptimizerConfig(lr=1e-4, critic_lr=CRITIC_LR, weight_decay=0.1, adam_beta2=0.95, clip_grad=0.5)


@advantage_traits(compares_group=False, needs_values=True)
def ppo(rollout: AdvantageInput, /) -> Advantages:
    """Generalised advantages of the samples' rewards."""
    rewards = np.zeros(len(rollout.rollout_log_probs))
    has_tokens = rollout.num_tokens > 0
    rewards[rollout.num_tokens.cumsum()[has_tokens] - 1] = rollout.rewards[has_tokens]
    assert rollout.values is not None
    found = gae(rewards, rollout.values, rollout.num_tokens, gamma=GAMMA, lambd=LAMBD)
    return Advantages(found.advantages.astype(np.float32), found.returns.astype(np.float32))


def save_classifier(checkpoint: Path, folder: Path, num_labels: int = 1) -> Path:
    """The checkpoint with a random head."""
    state = torch.get_rng_state()
    torch.manual_seed(1)
    model = AutoModelForTokenClassification.from_pretrained(checkpoint, num_labels=num_labels)
    model.score.weight.data.normal_(0, 0.3)
    model.score.bias.data.normal_(0, 0.3)
    torch.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


class SlowCritic:
    """What the critic should do, written for reading."""

    def __init__(self, checkpoint: Path) -> None:
        self.model = AutoModelForTokenClassification.from_pretrained(checkpoint).double()
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() == 1]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=CRITIC_LR,
            betas=(ADAM.adam_beta1, ADAM.adam_beta2),
            weight_decay=ADAM.weight_decay,
        )

    def values(self, batch: TrainBatch) -> list[torch.Tensor]:
        """Of each sample's trained tokens."""
        found, start, place = [], 0, 0
        for prompt, response in zip(batch.prompt_lengths.tolist(), batch.response_lengths.tolist(), strict=True):
            ids = torch.from_numpy(batch.tokens[start : start + prompt + response].astype(np.int64))
            mask = torch.from_numpy(batch.loss_mask[place : place + response] > 0)
            # the value of a token is read where the token before it ends
            found.append(self.model(ids[None]).logits[0, prompt - 1 : -1, 0][mask])
            start, place = start + prompt + response, place + response
        return found

    def returns(self, batch: TrainBatch, values: list[torch.Tensor]) -> list[torch.Tensor]:
        found = []
        for reward, own in zip(batch.rewards.tolist(), values, strict=True):
            following_value = following = 0.0
            backwards = []
            for t in reversed(range(len(own))):
                earned = reward if t == len(own) - 1 else 0.0
                following = earned + GAMMA * following_value - float(own[t]) + GAMMA * LAMBD * following
                following_value = float(own[t])
                backwards.append(following + following_value)
            found.append(torch.tensor(backwards[::-1], dtype=torch.float64))
        return found

    def train(self, batch: TrainBatch, num_steps: int) -> list[dict[str, float]]:
        with torch.no_grad():
            old = self.values(batch)
        returns, metrics = self.returns(batch, old), []
        for mine in np.array_split(list(dict.fromkeys(batch.rollout_ids.tolist())), num_steps):
            self.optimizer.zero_grad()
            values, means = self.values(batch), []
            for rollout in mine:
                members = [i for i in range(len(batch)) if batch.rollout_ids[i] == rollout]
                new, before, target = (torch.cat([part[i] for i in members]) for part in (values, old, returns))
                clipped = before + (new - before).clamp(-CLIP, CLIP)
                losses = torch.maximum((new - target) ** 2, (clipped - target) ** 2)
                means.append(losses.sum() / max(len(losses), 1))
            loss = torch.stack(means).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), ADAM.clip_grad)
            self.optimizer.step()
            metrics.append({"critic/value_loss": loss.item(), "critic/grad_norm": norm.item()})
        return metrics


@pytest.mark.parametrize("family", ["llama", "qwen3-tied"])
@pytest.mark.parametrize("num_steps", [1, 3])
def test_values_and_steps_equal_the_slow_version(
    family: str, num_steps: int, checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    classifier = save_classifier(checkpoints[family], tmp_path / "classifier")
    seen: list[AdvantageInput] = []

    @advantage_traits(compares_group=False, needs_values=True)
    def remembering(rollout: AdvantageInput, /) -> Advantages:
        seen.append(rollout)
        return ppo(rollout)

    trainer = make_trainer(
        checkpoints[family],
        ckpt=CkptConfig(hf_checkpoint=checkpoints[family], critic_load=classifier),
        grpo=GrpoConfig(value_clip=CLIP),
        optimizer=ADAM,
        num_steps_per_rollout=num_steps,
        advantage=remembering,
    )
    slow = SlowCritic(classifier)
    clipped = 0.0
    for step in range(2):
        batch = make_batch(step)
        with torch.no_grad():
            values = torch.cat(slow.values(batch))
            returns = torch.cat(slow.returns(batch, slow.values(batch)))
        metrics = trainer.train(batch).metrics
        assert seen[-1].values == pytest.approx(values.numpy(), abs=1e-5)
        expected = slow.train(batch, num_steps)
        for name in expected[0]:
            assert metrics[name] == pytest.approx(np.mean([each[name] for each in expected]), rel=1e-5), name
        explained = 1 - (returns - values).var() / returns.var()
        assert metrics["critic/explained_variance"] == pytest.approx(float(explained), abs=1e-5)
        clipped += metrics["critic/value_clipped"]
    assert (clipped > 0) == (num_steps > 1)
    trainer.save(tmp_path)
    found = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic" / "model").state_dict()
    for name, weight in slow.model.state_dict().items():
        # Adam turns rounding into steps of up to lr where a gradient is next to nothing.
        assert (found[name] - weight).abs().mean() < 1e-6, name


def test_the_critic_alone_learns_what_rollouts_earn_and_the_policy_stays(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    trainer = make_trainer(
        checkpoints["llama"],
        grpo=GrpoConfig(num_critic_only_steps=15),
        optimizer=OptimizerConfig(lr=1e-3, critic_lr=3e-3),
        advantage=ppo,
        total_steps=17,
    )
    before = {name: weight.clone() for name, weight in trainer.export_weights()}
    rows: list[Any] = []
    for step in range(17):
        batch = make_batch(0, advantages=np.repeat([1.0, 0.0, 0.5, 2.0], 4).tolist())
        object.__setattr__(batch, "step", step)
        rows.append(trainer.train(batch).metrics)
        if step == 14:
            assert all(torch.equal(weight, before[name]) for name, weight in trainer.export_weights())
    losses = [row["critic/value_loss"] for row in rows]
    assert losses[14] < 0.15 * losses[0]
    assert rows[0]["critic/value_mean"] == 0  # the head starts at zero
    assert rows[14]["critic/explained_variance"] > 0.8
    assert ["train/loss" in row for row in rows] == [False] * 15 + [True] * 2
    assert not torch.equal(dict(trainer.export_weights())["model.norm.weight"], before["model.norm.weight"])


@pytest.mark.parametrize(
    ("dtype", "ckpt_format"), [("float32", "safetensors"), ("bfloat16", "safetensors"), ("bfloat16", "torch_dist")]
)
def test_a_resumed_critic_goes_on_bit_for_bit(
    dtype: str,
    ckpt_format: Literal["safetensors", "torch_dist"],
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    def make() -> MegatronTrainer:
        return make_trainer(
            checkpoints["llama"],
            ckpt=CkptConfig(hf_checkpoint=checkpoints["llama"], ckpt_format=ckpt_format),
            grpo=GrpoConfig(num_critic_only_steps=1),
            optimizer=OptimizerConfig(lr=1e-3, lr_decay_style="cosine"),
            num_steps_per_rollout=2,
            advantage=ppo,
            dtype=dtype,
        )

    uninterrupted, resumed = make(), make()
    for step in range(2):
        uninterrupted.train(make_batch(step))
    uninterrupted.save(tmp_path)
    resumed.load(tmp_path)
    for step in range(2, 4):
        expected, found = (
            {name: value for name, value in trainer.train(make_batch(step)).metrics.items() if "perf" not in name}
            for trainer in (uninterrupted, resumed)
        )
        assert found == expected


def test_a_checkpoint_without_a_critic_starts_one_from_its_weights(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch, tmp_path: Path
) -> None:
    first = make_trainer(checkpoints["llama"])
    first.train(make_batch(0))
    first.save(tmp_path)
    trainer = make_trainer(checkpoints["llama"], advantage=ppo)
    trainer.load(tmp_path)
    assert trainer.train(make_batch(1)).metrics["critic/value_mean"] == 0


def test_adapters_without_a_critic_get_one_that_starts_from_their_base(
    checkpoints: dict[str, Path], make_trainer: Make, tmp_path: Path
) -> None:
    lora = {"trained": TrainedConfig(lora_rank=2)}
    make_trainer(checkpoints["qwen3-tied"], **lora).save(tmp_path)
    trainer = make_trainer(checkpoints["qwen3-tied"], advantage=ppo, **lora)
    trainer.load(tmp_path)
    assert trainer._critic is not None


@pytest.mark.parametrize("ckpt_format", ["safetensors", "torch_dist"])
def test_a_critic_is_gone_on_with_where_critic_load_names_its_checkpoint(
    ckpt_format: Literal["safetensors", "torch_dist"],
    checkpoints: dict[str, Path],
    make_trainer: Make,
    make_batch: MakeBatch,
    tmp_path: Path,
) -> None:
    ckpt = CkptConfig(hf_checkpoint=checkpoints["llama"], ckpt_format=ckpt_format)
    first = make_trainer(checkpoints["llama"], ckpt=ckpt, advantage=ppo)
    first.train(make_batch(0))
    first.save(tmp_path)
    expected = first.train(make_batch(1)).metrics["critic/value_mean"]
    start = CkptConfig(hf_checkpoint=checkpoints["llama"])
    for ckpt, mean in ((replace(start, critic_load=tmp_path), expected), (replace(start, ref_load=tmp_path), 0)):
        trainer = make_trainer(checkpoints["llama"], ckpt=ckpt, advantage=ppo)
        assert trainer.train(make_batch(1)).metrics["critic/value_mean"] == mean


def test_a_head_of_two_outputs_is_refused(checkpoints: dict[str, Path], make_trainer: Make, tmp_path: Path) -> None:
    folder = save_classifier(checkpoints["llama"], tmp_path, num_labels=2)
    ckpt = CkptConfig(hf_checkpoint=checkpoints["llama"], critic_load=folder)
    with pytest.raises(CheckpointError, match=r"score.weight is \(2, 48\); a critic has one output"):
        make_trainer(checkpoints["llama"], ckpt=ckpt, advantage=ppo)


def test_an_estimator_that_gives_a_critic_nothing_to_learn_is_named(
    checkpoints: dict[str, Path], make_trainer: Make, make_batch: MakeBatch
) -> None:
    only_advantages = advantage_traits(needs_values=True)(lambda rollout: rollout.rewards)
    trainer = make_trainer(checkpoints["llama"], advantage=only_advantages)
    with pytest.raises(TrainError, match="'grpo' takes a critic's values and gave none for the returns"):
        trainer.train(make_batch(0))


LAYOUTS = {
    "data": Layout(2, shares_optimizer=True),
    "tensor": Layout(2, tensor_size=2),
    "sequence": Layout(2, tensor_size=2, is_sequence_parallel=True),
    "pipeline": Layout(2, pipeline_size=2),
    "interleaved": Layout(2, pipeline_size=2, chunks_per_stage=2),
    "context": Layout(2, context_size=2),
}


def train_and_save(folder: Path, name: str, layout: Layout, rank: int) -> list[dict[str, float]]:
    trainer = MegatronTrainer(
        CkptConfig(hf_checkpoint=folder / "model", critic_load=folder / "classifier"),
        ModelConfig(),
        1.0,
        GrpoConfig(value_clip=CLIP),
        ADAM,
        PerfConfig(use_dynamic_batch_size=True, max_tokens_per_gpu=48),
        num_steps_per_rollout=2,
        global_batch_size=64,
        total_steps=10,
        advantage=ppo,
        transport=None,
        device="cpu",
        layout=layout,
        rank=rank,
        meeting=folder / f"{name}.meeting",
    )
    trainer.load(None)
    batches = pickle.loads((folder / "batches.pickle").read_bytes())  # noqa: S301  # the test wrote it
    rows = [trainer.train(batch).metrics for batch in batches]
    saved = folder / name
    saved.mkdir(exist_ok=True)
    trainer.save(saved)
    return [{key: value for key, value in row.items() if key.startswith("critic/")} for row in rows]


def test_two_processes_train_and_save_the_same_critic(
    make_batch: MakeBatch, tmp_path: Path, launch: Callable[..., None]
) -> None:
    shape = {"hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 6, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**shape, vocab_size=83, num_hidden_layers=4)).save_pretrained(tmp_path / "model")
    save_classifier(tmp_path / "model", tmp_path / "classifier")
    (tmp_path / "batches.pickle").write_bytes(pickle.dumps([make_batch(step) for step in range(2)]))
    expected = train_and_save(tmp_path, "single", SINGLE, 0)
    launch(__file__, tmp_path, 2)
    weights = AutoModelForTokenClassification.from_pretrained(tmp_path / "single" / "critic" / "model").state_dict()
    for rank in range(2):
        for name, rows in json.loads((tmp_path / f"{rank}.json").read_text()).items():
            assert [row.keys() for row in rows] == [row.keys() for row in expected]
            for found, row in zip(rows, expected, strict=True):
                assert found == pytest.approx(row, rel=1e-5, abs=1e-6), name
    for name in LAYOUTS:
        found = AutoModelForTokenClassification.from_pretrained(tmp_path / name / "critic" / "model").state_dict()
        assert all((found[key] - weight).abs().mean() < 1e-6 for key, weight in weights.items()), name


def main(folder: Path, rank: int) -> None:
    """One of two processes: train every layout, write what came out."""
    torch.set_num_threads(1)
    results = {}
    for name, layout in LAYOUTS.items():
        results[name] = train_and_save(folder, name, layout, rank)
        shut_down_parallel()
    (folder / f"{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
