from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from slimrl import Group, Sample, Score, Status, registry
from slimrl.errors import PluginError
from slimrl.registry import Options, PluginSelection
from slimrl.registry.resolve import Resolved
from slimrl.registry.rewards import Component, RewardTable
from slimrl.scoring import Scorer, ScoringSettings

REWARD = r"""
import os, re, sys, time
def score(sample):
    match sample.response:
        case "hang": time.sleep(1000)
        case "regex": re.match(r"(a+)+$", "a" * 40 + "b")
        case "raise": raise ValueError("no such answer")
        case "sysexit": raise SystemExit(3)
        case "die": os._exit(3)
        case "segfault": os.kill(os.getpid(), 11)
        case "memory": return len(bytearray(1 << 32))
        case "none": return None
        case "nan": return float("nan")
        case "print": print("noise"); return 1.0
        case "pid": return os.getpid()
        case "slow": time.sleep(0.2); return 1.0
        case "child":
            import subprocess
            open(sample.label, "w").write(str(subprocess.Popen(["sleep", "1000"]).pid))
            time.sleep(1000)
        case "fields":
            return {"log_probs": len(sample.log_probs), "tokens": len(sample.tokens),
                    "prompt_tokens": len(sample.prompt_tokens), "label": sample.label, **sample.metadata}
    return float(sample.response)

def modules(sample):
    return {name: name in sys.modules for name in ("torch", "ray", "sympy", "numpy", "transformers")}

async def later(sample):
    import asyncio
    if sample.response == "stubborn":
        try: await asyncio.sleep(1000)
        except asyncio.CancelledError: await asyncio.sleep(0.3)
    if sample.response == "raise": raise ValueError("no judge")
    await asyncio.sleep(float(sample.response))
    return 0.25
"""


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rewards.py"
    path.write_text(REWARD)
    return path


def sample(response: str, i: int = 0, **changes: Any) -> Sample:
    tokens = [1, 2, 3]
    made = Sample(0, i, i, "p", [9, 9], tokens=tokens, log_probs=[-1.0] * 3, response=response, **changes)
    if made.status is Status.PENDING:
        made.status = Status.COMPLETED
    return made


def one(reward: Resolved, **changes: Any) -> RewardTable:
    """A table of a single reward."""
    return RewardTable((Component(reward.name, 1.0, reward),), **changes)


def run(rewards: Path, test: Callable[[Scorer], Awaitable[Any]], name: str = "score", **settings: Any) -> Any:
    reward = registry.load([], warn=False).resolve("reward", f"{rewards}:{name}")
    table = one(reward, reward_key=settings.pop("reward_key", None))
    settings = {"num_workers": 1, "timeout_s": 0.5, **settings}

    async def go() -> Any:
        async with Scorer(table, Options(), ScoringSettings(**settings)) as scorer:
            return await test(scorer)

    return asyncio.run(go())


def scores(rewards: Path, responses: list[str], name: str = "score", **settings: Any) -> list[Score]:
    async def test(scorer: Scorer) -> list[Score]:
        group = Group(0, [sample(response, i) for i, response in enumerate(responses)])
        await scorer.score(group)
        return [s.score for s in group if s.score is not None]

    found: list[Score] = run(rewards, test, name, **settings)
    return found


def test_scores_come_back_to_their_own_samples(rewards: Path) -> None:
    found = scores(rewards, [str(i) for i in range(20)], num_workers=2)
    assert [score.value for score in found] == list(range(20))
    assert all(score.seconds > 0 for score in found)


@pytest.mark.parametrize(
    ("response", "status", "said"),
    [
        ("raise", "error", "ValueError: no such answer ("),
        ("sysexit", "error", "SystemExit: 3"),
        ("none", "abstained", "returned None"),
        ("nan", "error", "not finite"),
        ("hang", "timeout", "no result within 0.5 s"),
        ("regex", "timeout", "no result within 0.5 s"),
        ("die", "error", "ended with status 3"),
        ("segfault", "error", "SIGSEGV"),
        ("memory", "error", "MemoryError"),
    ],
)
def test_whatever_a_reward_does_is_an_outcome_and_scoring_goes_on(
    rewards: Path, response: str, status: str, said: str
) -> None:
    bad, good = scores(rewards, [response, "0.5"], memory_limit_bytes=1 << 30)
    assert (bad.status, bad.value) == (status, None)
    assert said in bad.reason
    assert good.value == 0.5


def test_one_hanging_sample_does_not_hold_up_the_others(rewards: Path) -> None:
    async def test(scorer: Scorer) -> tuple[float, float]:
        started = time.perf_counter()
        hanging = asyncio.create_task(scorer.score(Group(0, [sample("hang")])))
        await asyncio.sleep(0.05)
        await scorer.score(Group(1, [sample("1") for _ in range(20)]))
        others = time.perf_counter() - started
        await hanging
        return others, time.perf_counter() - started

    others, hung = run(rewards, test, num_workers=2, timeout_s=1.0)
    assert others < 0.9
    assert 1.0 <= hung < 1.5


def test_the_event_loop_keeps_turning_while_a_reward_computes(rewards: Path) -> None:
    async def test(scorer: Scorer) -> list[float]:
        lags: list[float] = []
        scoring = asyncio.create_task(scorer.score(Group(0, [sample("regex"), sample("1")])))
        while not scoring.done():
            started = time.thread_time()
            await asyncio.sleep(0.005)
            lags.append(time.thread_time() - started)  # of this thread alone: others may hold the machine's cores
        return lags

    lags = run(rewards, test)
    assert len(lags) > 20
    assert max(lags) < 0.05


def test_a_worker_is_reused_and_a_killed_one_replaced(rewards: Path) -> None:
    first, second, _, third = scores(rewards, ["pid", "pid", "die", "pid"])
    assert first.value == second.value
    assert third.value not in (None, first.value)


def test_a_kill_takes_what_the_reward_started_with_it(rewards: Path, tmp_path: Path) -> None:
    async def test(scorer: Scorer) -> None:
        await scorer.score(Group(0, [sample("child", label=str(tmp_path / "pid"))]))

    run(rewards, test, timeout_s=2.0)
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_caller_that_leaves_does_not_cost_the_worker(rewards: Path) -> None:
    async def test(scorer: Scorer) -> tuple[Any, Any]:
        before, after, left = sample("pid"), sample("pid"), sample("slow")
        await scorer.score(Group(0, [before]))
        leaving = asyncio.create_task(scorer.score(Group(1, [left])))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await scorer.score(Group(2, [after]))
        assert left.score is None
        return before.value, after.value

    before, after = run(rewards, test)
    assert before == after


def test_a_sample_that_failed_or_was_aborted_is_not_shown_to_the_reward(rewards: Path) -> None:
    async def test(scorer: Scorer) -> list[Score | None]:
        group = Group(0, [sample("1"), sample("1", status=Status.FAILED, reason="the tool broke")])
        group.samples.append(sample("1", status=Status.ABORTED))
        await scorer.score(group)
        return [s.score for s in group]

    good, failed, aborted = run(rewards, test)
    assert good.value == 1.0
    assert (failed.status, failed.reason) == ("abstained", "not scored, the sample failed: the tool broke")
    assert aborted.status == "abstained"


def test_a_sample_that_has_a_score_keeps_it(rewards: Path) -> None:
    async def test(scorer: Scorer) -> float | None:
        scored = sample("1", score=Score.scored(0.125))
        await scorer.score(Group(0, [scored]))
        return scored.value

    assert run(rewards, test) == 0.125


def test_a_reward_sees_everything_but_the_lists_that_only_training_needs(rewards: Path) -> None:
    async def test(scorer: Scorer) -> Any:
        shown = sample("fields", label={"sum": 3}, metadata={"level": 2})
        await scorer.score(Group(0, [shown]))
        assert shown.log_probs == [-1.0] * 3
        assert shown.score is not None
        return shown.score

    score = run(rewards, test, reward_key="tokens")
    assert score.reward == {"log_probs": 0, "tokens": 3, "prompt_tokens": 2, "label": {"sum": 3}, "level": 2}
    assert score.value == 3


def test_metadata_that_cannot_be_sent_is_an_error_of_that_sample(rewards: Path) -> None:
    async def test(scorer: Scorer) -> Score | None:
        odd = sample("1", metadata={"call": lambda: None})
        await scorer.score(Group(0, [odd]))
        return odd.score

    assert "cannot be sent" in run(rewards, test).reason


def test_a_worker_loads_nothing_but_slimrl_and_the_reward(rewards: Path) -> None:
    (score,) = scores(rewards, ["1"], "modules", reward_key="torch")
    assert score.reward == dict.fromkeys(("torch", "ray", "sympy", "numpy", "transformers"), False)


def test_what_a_reward_prints_does_not_disturb(rewards: Path) -> None:
    assert scores(rewards, ["print"])[0].value == 1.0


def test_an_offered_reward_is_made_in_the_worker() -> None:
    reward = registry.load(warn=False).resolve("reward", "math")

    async def go() -> list[float | None]:
        async with Scorer(one(reward), Options(), ScoringSettings(num_workers=1)) as scorer:
            group = Group(0, [sample(r"\boxed{\frac12}", label="0.5"), sample(r"\boxed{9**9**9}", label="x+1")])
            await scorer.score(group)
            return [s.value for s in group]

    assert asyncio.run(go()) == [1.0, 0.0]


def test_a_plugins_options_reach_its_worker(install) -> None:
    source = (
        "from dataclasses import dataclass\nfrom slimrl import hookimpl\n"
        "@dataclass(frozen=True)\nclass LimitOptions:\n    limit: int = 7\n"
        "@hookimpl\ndef slimrl_options():\n    return [LimitOptions]\n"
        "def make(options):\n    limit = options[LimitOptions].limit\n    return lambda sample: float(limit)\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n    return {'limit': make}\n"
    )
    install("rl-reward-limit", {"limit_reward": source})
    plugins = registry.load(["limit_reward"])
    options = Options().with_defaults(plugins.catalogue.option_types)

    async def go() -> float | None:
        async with Scorer(one(plugins.resolve("reward", "limit")), options, ScoringSettings(num_workers=1)) as scorer:
            limited = sample("1")
            await scorer.score(Group(0, [limited]))
            return limited.value

    assert asyncio.run(go()) == 7.0


def test_a_worker_takes_the_plugin_it_is_told_whatever_the_environment_leaves_out(
    install, reward_plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("rl-reward-own", {"own_reward": reward_plugin("own")})
    monkeypatch.setenv("SLIMRL_PLUGINS", "")
    reward = registry.load(selection=PluginSelection(), warn=False).resolve("reward", "own")

    async def go() -> float | None:
        async with Scorer(one(reward), Options(), ScoringSettings(num_workers=1)) as scorer:
            scored = sample("1")
            await scorer.score(Group(0, [scored]))
            return scored.value

    assert asyncio.run(go()) == 1.0


def test_async_rewards_wait_together(rewards: Path) -> None:
    started = time.perf_counter()
    found = scores(rewards, ["0.2"] * 20, "later", timeout_s=2.0)
    assert {score.value for score in found} == {0.25}
    assert time.perf_counter() - started < 1.5


@pytest.mark.parametrize(
    ("response", "status", "said"),
    [("5", "timeout", "no result within 0.1 s"), ("stubborn", "timeout", "no result"), ("raise", "error", "no judge")],
)
def test_an_async_reward_that_misbehaves_is_an_outcome(rewards: Path, response: str, status: str, said: str) -> None:
    (score,) = scores(rewards, [response], "later", timeout_s=0.1)
    assert score.status == status
    assert said in score.reason


def test_an_async_reward_that_a_factory_makes_runs_in_a_process_of_its_own(install) -> None:
    source = (
        "import os\nfrom slimrl import hookimpl\ndef make(options):\n"
        "    async def judge(sample):\n        return os.getpid()\n    return judge\n"
        "@hookimpl\ndef slimrl_offer_rewards():\n    return {'judge': make}\n"
    )
    install("rl-reward-judge", {"judge_reward": source})
    reward = registry.load(["judge_reward"]).resolve("reward", "judge")

    async def go() -> float | None:
        async with Scorer(one(reward), Options(), ScoringSettings(num_workers=1)) as scorer:
            judged = sample("1")
            await scorer.score(Group(0, [judged]))
            return judged.value

    assert asyncio.run(go()) not in (None, os.getpid())


def test_a_reward_that_changed_on_disk_is_refused(rewards: Path) -> None:
    reward = registry.Registry(registry.load([], warn=False).catalogue).resolve("reward", f"{rewards}:score")
    rewards.write_text(REWARD + "\n# edited\n")

    async def go() -> None:
        async with Scorer(one(reward), Options(), ScoringSettings(num_workers=2)):
            pass

    with pytest.raises(PluginError, match="changed on disk"):
        asyncio.run(go())


def test_no_worker_outlives_its_scorer(rewards: Path) -> None:
    before = {child.pid for child in psutil.Process().children()}

    async def test(scorer: Scorer) -> set[int]:
        hanging = asyncio.create_task(scorer.score(Group(0, [sample("hang")])))
        await asyncio.sleep(0.1)
        hanging.cancel()
        return {child.pid for child in psutil.Process().children()}

    during = run(rewards, test, num_workers=2, timeout_s=60.0)
    assert 2 <= len(during - before) <= 3  # one is spare, and may still be starting
    assert {child.pid for child in psutil.Process().children()} <= before


def test_workers_die_with_a_parent_that_is_killed(rewards: Path) -> None:
    code = (
        "import asyncio, sys, psutil\nfrom slimrl import Group, Sample, Status, registry\n"
        "from slimrl.registry import Component, Options, RewardTable\n"
        "from slimrl.scoring import Scorer, ScoringSettings\n"
        "reward = registry.load([]).resolve('reward', sys.argv[1])\n"
        "async def main():\n"
        "    table = RewardTable((Component('r', 1.0, reward),))\n"
        "    async with Scorer(table, Options(), ScoringSettings(num_workers=1, timeout_s=1000)) as scorer:\n"
        "        print(*(child.pid for child in psutil.Process().children()), flush=True)\n"
        "        await scorer.score(Group(0, [Sample(0, 0, 0, '', [], response='regex', status=Status.COMPLETED)]))\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, f"{rewards}:score"], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        time.sleep(0.3)  # the worker is deep in a regular expression now, and holds the interpreter
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    deadline = time.monotonic() + 5
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)
