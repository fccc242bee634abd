"""The prompts of training and of an evaluation set, as the flags say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slimrl.config import EvalConfig, RolloutConfig
from slimrl.config.eval_sets import EvalDataset
from slimrl.config.hf_folder import open_hf_folder
from slimrl.config.lengths import Lengths
from slimrl.config.prompt_files import PromptFileSpec, parse_prompt_file
from slimrl.data.encoder import PromptEncoder
from slimrl.data.files import STRICT, LeftOut, Lenience, PromptFiles, PromptScan, open_prompts, scan_prompts
from slimrl.data.fits import PromptFits
from slimrl.data.limits import PromptLimits
from slimrl.data.prompts import PromptKeys


def open_training(
    specs: Sequence[PromptFileSpec], rollout: RolloutConfig, encoder: PromptEncoder, hf_checkpoint: Path
) -> tuple[PromptFiles, tuple[LeftOut, ...]]:
    """The prompts that a run trains on, the same as `scan_training` found; raises DataError for those it refuses.

    All rows are read only where some may be left out, or where the tokenizer knows ids that the model does not: a
    prompt with such an id counts as malformed, and `scan_training`, which has no tokenizer, did not find it.
    """
    prompts = open_prompts(specs, PromptKeys.of_training(rollout))
    if encoder.may_leave_vocabulary:
        prompts, scan = scan_prompts(prompts, fits=encoder.check, lenience=_lenience(rollout))
    elif rollout.skip_bad_rows or rollout.skip_long_prompts:
        prompts, scan = _scan(prompts, Lengths.of_training(rollout), rollout, hf_checkpoint, _lenience(rollout))
    else:
        return prompts, ()
    return prompts, scan.left_out


def scan_training(specs: Sequence[PromptFileSpec], rollout: RolloutConfig, hf_checkpoint: Path | None) -> PromptScan:
    """Every row of --prompt-data checked; without a checkpoint, whether prompts fit it is not."""
    prompts, lengths = open_prompts(specs, PromptKeys.of_training(rollout)), Lengths.of_training(rollout)
    return _scan(prompts, lengths, rollout, hf_checkpoint, _lenience(rollout))[1]


def open_evaluation(dataset: EvalDataset, config: EvalConfig, rollout: RolloutConfig) -> PromptFiles:
    """The prompts of an evaluation set."""
    spec = parse_prompt_file(str(dataset.path), f"evaluation set {dataset.name}:", weighted=False)
    return open_prompts([spec], PromptKeys.of_evaluation(dataset, config, rollout))


def scan_evaluation(
    dataset: EvalDataset, config: EvalConfig, rollout: RolloutConfig, hf_checkpoint: Path | None
) -> PromptScan:
    """Every row of an evaluation set checked; none is left out, or results could not be compared."""
    prompts, lengths = open_evaluation(dataset, config, rollout), Lengths.of_evaluation(config, rollout, dataset)
    return _scan(prompts, lengths, rollout, hf_checkpoint)[1]


def _lenience(rollout: RolloutConfig) -> Lenience:
    return Lenience(bad=rollout.skip_bad_rows, long=rollout.skip_long_prompts)


def _scan(
    prompts: PromptFiles,
    lengths: Lengths,
    rollout: RolloutConfig,
    hf_checkpoint: Path | None,
    lenience: Lenience = STRICT,
) -> tuple[PromptFiles, PromptScan]:
    if hf_checkpoint is None:
        return scan_prompts(prompts, lenience=lenience)
    model = open_hf_folder(hf_checkpoint, "--hf-checkpoint")
    limits = PromptLimits.of(lengths, model)
    fits = PromptFits(
        lambda: PromptEncoder.of_training(rollout, hf_checkpoint).within(limits),
        limit=limits.longest,
        template=(model.chat_template or "") if rollout.apply_chat_template else "",
    )
    return scan_prompts(prompts, fits=fits, lenience=lenience)
