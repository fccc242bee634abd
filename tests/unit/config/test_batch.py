"""The batch equation: derivation and refusal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimrl.config import RolloutConfig
from slimrl.config.batch import solve_batch
from slimrl.errors import ConfigError

SIZE = st.integers(1, 8)


def rollout(groups: int, size: int, batch: int | None, steps: int | None) -> RolloutConfig:
    return RolloutConfig(
        rollout_batch_size=groups, n_samples_per_prompt=size, global_batch_size=batch, num_steps_per_rollout=steps
    )


@settings(deadline=None)  # time says nothing on a busy machine
@given(SIZE, SIZE, st.none() | st.integers(1, 70), st.none() | SIZE)
def test_it_holds_with_what_was_given_or_is_refused_rightly(
    groups: int, size: int, batch: int | None, steps: int | None
) -> None:
    samples = groups * size
    fits = [
        (b, s)
        for b in range(1, samples + 1)
        for s in range(1, samples + 1)
        if b * s == samples and batch in (None, b) and steps in (None, s)
    ]
    if batch is None and steps is None:
        fits = [(samples, 1)]
    try:
        sizes = solve_batch(rollout(groups, size, batch, steps))
    except ConfigError:
        assert fits == []
    else:
        assert fits == [(sizes.global_batch_size, sizes.num_steps_per_rollout)]
        assert sizes.samples_per_rollout == samples


@pytest.mark.parametrize(
    ("batch", "steps", "message"),
    [
        (
            48,
            1,
            "the batch equation does not hold: --rollout-batch-size 8 x --n-samples-per-prompt 8 = 64, "
            "--global-batch-size 48 x --num-steps-per-rollout 1 = 48; "
            "set --global-batch-size 64, or leave it out and it is derived",
        ),
        (32, 3, "set --num-steps-per-rollout 2, or leave it out and it is derived"),
        (48, 3, "leave both out for one optimizer step per rollout"),
        (48, None, "--global-batch-size 48 x --num-steps-per-rollout (derived); 64 samples divide by "
         "--global-batch-size 16, 32, 64"),
        (None, 5, "--global-batch-size (derived) x --num-steps-per-rollout 5; 64 samples divide by "
         "--num-steps-per-rollout 2, 4, 8"),
        (128, None, "64 samples divide by --global-batch-size 16, 32, 64"),
    ],
)  # fmt: skip
def test_the_refusal_has_all_four_numbers_and_a_way_out(batch: int | None, steps: int | None, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        solve_batch(rollout(8, 8, batch, steps))
    assert message in str(caught.value)


def test_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        solve_batch(rollout(8, 8, 0, None))


def test_without_prompts_per_rollout_there_is_nothing_to_derive_from() -> None:
    with pytest.raises(ConfigError, match="--rollout-batch-size is required"):
        solve_batch(RolloutConfig())
