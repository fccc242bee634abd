"""ROLLOUT_ARGS: prompts, batch sizes, sampling and rewards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class RolloutConfig:
    """Data generation: prompts, batch sizes, sampling and the reward."""

    prompt_data: tuple[str, ...] = field(default=(), metadata={"repeats": True})
    """Prompts, as JSONL or .parquet files, each PATH, PATH@[a:b] (those rows), PATH=WEIGHT (how often) or both. Required."""
    skip_bad_rows: bool = False
    """Leave malformed rows of --prompt-data out and count them; otherwise the first one is an error."""
    input_key: str = "input"
    """Key of the prompt in a row: a string or a list of chat messages."""
    label_key: str | None = None
    """Key of the ground truth in a row, given to the reward."""
    metadata_key: str = "metadata"
    """Key of a row's metadata (an object), given to the reward; rows may lack it."""
    tool_key: str = "tools"
    """Key of a row's list of tool schemas, given to the chat template and kept in the metadata; rows may lack it."""
    apply_chat_template: bool = False
    """Wrap prompts in the tokenizer's chat template; a string becomes one user message."""
    apply_chat_template_kwargs: str | None = None
    """Variables of the chat template, as a JSON object: '{"enable_thinking": false}'."""
    rollout_shuffle: bool = False
    """Shuffle the prompts anew in every epoch."""
    rollout_seed: int = 42
    """Seed of shuffling and of every sample's own sampling seed."""
    rollout_batch_size: int | None = None
    """Prompts (groups) per rollout. Required."""
    n_samples_per_prompt: int = 1
    """Responses per prompt: the size of one group."""
    global_batch_size: int | None = None
    """Samples per optimizer step. Derived when unset: rollout_batch_size x n_samples_per_prompt / num_steps_per_rollout."""
    num_steps_per_rollout: int | None = None
    """Optimizer steps per rollout. Derived when --global-batch-size is given, else 1."""
    num_rollout: int | None = None
    """Rollouts (steps) in all: the length of training. Required unless --num-epoch is given."""
    num_epoch: int | None = None
    """Passes over the prompts; sets --num-rollout when that is unset."""
    rollout_max_response_len: int | None = None
    """New tokens at most in one response. Required."""
    rollout_max_prompt_len: int | None = None
    """Prompt tokens at most; longer prompts are an error that names the row, or left out (--skip-long-prompts)."""
    skip_long_prompts: bool = False
    """Leave prompts of --prompt-data out and count them that are over --rollout-max-prompt-len or fill the context."""
    rollout_max_context_len: int | None = None
    """Tokens at most of prompt and response together; a response that reaches it is truncated. Default: the model's context."""
    rollout_temperature: float = 1.0
    """Sampling temperature; also divides the trainer's logits."""
    rollout_top_p: float = 1.0
    """Nucleus sampling threshold."""
    rollout_top_k: int = -1
    """Sample among the k likeliest tokens; -1: all."""
    rollout_stop: tuple[str, ...] = ()
    """Strings that end a response."""
    rollout_stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a response, beside the model's own end tokens."""
    over_sampling_batch_size: int | None = None
    """Prompts in flight at once while a batch is filled, at least --rollout-batch-size; the surplus is kept for the next rollout."""
    dynamic_sampling_filter_path: str | None = None
    """Filter that drops finished groups: a name, pkg.mod:attr or file.py:attr."""
    max_sampling_rounds: int = 16
    """The budget of one batch: this many times --rollout-batch-size groups may be finished to fill it."""
    on_insufficient: Literal["stop", "fallback"] = "stop"
    """What follows when the budget did not fill a batch: end the run, or take the dropped groups whose rewards differ most."""
    partial_rollout: bool = False
    """Keep what was generated of groups that are cut off when a batch is full, and go on from it under the next weights."""
    mask_offpolicy_in_partial_rollout: bool = False
    """Take the tokens of older weights out of the loss of samples that were cut off and went on."""
    train_async: bool = False
    """Also --async. Train and generate at the same time: while a step trains, the engine goes on under the weights it has."""
    max_staleness: int | None = None
    """With --async: how many weight versions a trained token may be behind at most. Default: 1, which is one step ahead."""
    update_weights_interval: int = 1
    """With --async: steps between two updates of the engine's weights, at most --max-staleness."""
    update_weights_pause: Literal["retract", "in_place"] = "retract"
    """With --async: requests in flight compute their cache again under new weights, or keep that of the old ones (quicker, less exact)."""
    buffer_filter_path: str = "pop_first"
    """How kept-over groups leave the buffer: a name, pkg.mod:attr or file.py:attr."""
    custom_generate_function_path: str = "single_turn"
    """Generator that fills a sample: a name, pkg.mod:attr or file.py:attr."""
    rollout_sample_hook_path: tuple[str, ...] = field(default=(), metadata={"repeats": True})
    """Function that sees each sample between generation and reward, and may change it: pkg.mod:attr or file.py:attr."""
    rollout_function_path: str | None = None
    """Function that fills a batch in place of slimrl's loop: pkg.mod:attr or file.py:attr."""
    rollout_sample_filter_path: str | None = None
    """Function that says which samples of a batch leave the loss; their rewards still count in their groups."""
    rollout_all_samples_process_path: str | None = None
    """Function that sees every group finished for a batch, dropped ones too."""
    custom_reward_post_process_path: str | None = None
    """Function whose numbers take the place of the estimator's advantages."""
    custom_convert_samples_to_train_data_path: str | None = None
    """Function that makes a batch's samples into what is trained on."""
    rollout_data_postprocess_path: str | None = None
    """Function that may change loss masks and advantages in the trainer, before a batch is trained on."""
    data_source_path: str | None = None
    """Where prompts come from instead of --prompt-data: pkg.mod:attr or file.py:attr of a factory, or of slime's class."""
    custom_rollout_log_function_path: str | None = None
    """Function that sees a batch and its metrics; where it returns True, slimrl does not log them."""
    generate_retries: int = 1
    """How often a sample is generated again that a tool or the generator failed on; requests have retries of their own."""
    rm_type: str | None = None
    """Reward by name, as an installed plugin offers it (`math`), of rows whose metadata names none (rm_type)."""
    reward: tuple[str, ...] = field(default=(), metadata={"repeats": True})
    """A mix: REWARD=WEIGHT, once for each; the weight may be left out. Overrides --rm-type and what rows name."""
    custom_rm_path: str | None = None
    """Reward by reference: pkg.mod:attr, pkg.mod.attr or file.py:attr. Overrides --reward, --rm-type and what rows name."""
    reward_key: str | None = None
    """Which of a reward's named components is trained on. Default: what the reward says, or its only one."""
    group_rm: bool = False
    """Call rewards that are named by path with a whole group at once; they return a list."""
    rm_timeout: float | None = None
    """Seconds that scoring one sample may take. Default: what the reward says, else 3."""
    rm_workers: int | None = None
    """Processes that score. Default: half the machine's cores, at least 2 and at most 4."""
    rm_cache_size: int = 10_000
    """Scores that are remembered of rewards which say that they depend on the text alone; 0: none."""
    on_unscored: Literal["drop", "retry", "stop"] = "drop"
    """What follows an error or a timeout of a reward: leave the sample out, ask once more first, or end the run."""
    max_unscored_fraction: float = 0.5
    """End the run when more of a rollout's samples than this could not be scored (errors and timeouts)."""
    rm_url: str | None = None
    """Where the reward remote_rm posts samples to; ${NAME} in it is read from the environment variable NAME."""
