from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Status
from slimrl.testing import make_group, make_sample


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_sample_has_as_many_of_each_per_token_list_as_bytes(response: str) -> None:
    sample = make_sample(response, label=7, metadata={"a": 1})
    assert bytes(sample.tokens).decode() == sample.response == response
    assert len(sample.tokens) == len(sample.log_probs) == len(sample.weight_versions) == len(sample.loss_mask)
    assert (sample.label, sample.metadata, sample.status) == (7, {"a": 1}, Status.COMPLETED)


def test_metadata_is_a_copy() -> None:
    metadata = {"a": 1}
    make_sample("x", metadata=metadata).metadata["b"] = 2
    assert metadata == {"a": 1}


def test_a_prompt_may_be_a_chat() -> None:
    sample = make_sample("7", prompt=[{"role": "user", "content": "What is 3 + 4?"}])
    assert bytes(sample.prompt_tokens).decode() == "What is 3 + 4?"


def test_a_group_has_scored_and_unscored_samples_of_one_prompt() -> None:
    group = make_group([1.0, None, 0, "an answer"], label="7", group_id=3)
    assert [sample.value for sample in group] == [1.0, None, 0.0, None]
    assert [sample.score.status if sample.score else None for sample in group] == ["scored", "error", "scored", None]
    assert [sample.sample_id for sample in group] == [12, 13, 14, 15]
    assert {sample.group_id for sample in group} == {3}
    assert {sample.label for sample in group} == {"7"}


@pytest.mark.parametrize("module", ["slimrl.testing", "slimrl.testing.plugin"])
def test_pytest_loads_nothing_but_slimrl_itself(module: str) -> None:
    code = (
        f"import sys, pytest; before = set(sys.modules); import {module}; "
        "print(*(n for n in set(sys.modules) - before if n.split('.')[0] in ('numpy', 'torch', 'ray', 'sympy') "
        "or n.startswith(('slimrl.testing', 'slimrl.registry.p', 'slimrl.scoring', 'slimrl_'))))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"slimrl.testing", "slimrl.testing.plugin"}


def test_every_public_name_can_be_imported_and_others_cannot() -> None:
    import slimrl.testing as testing

    assert all(getattr(testing, name).__module__.startswith("slimrl.testing.") for name in testing.__all__)
    with pytest.raises(AttributeError, match="make_nothing"):
        testing.make_nothing  # noqa: B018  # the access is what is tested
