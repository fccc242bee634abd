"""Functions of slimrl's shapes: each writes what it saw into marks.jsonl."""

import json
from dataclasses import replace
from pathlib import Path

from slimrl import Group, Sample
from slimrl.config import RolloutConfig


def mark(name, **fields):
    with Path("marks.jsonl").open("a") as file:
        file.write(json.dumps({"hook": name, **fields}) + "\n")


class Source:
    def __init__(self, size):
        self.size, self.next = size, 0

    def take(self, count):
        groups = []
        for group_id in range(self.next, self.next + count):
            ids = range(group_id * self.size, (group_id + 1) * self.size)
            prompt = str(1 + group_id % 8)
            groups.append(Group(group_id, [Sample(group_id, i, i, prompt, [], seed=i) for i in ids], source="mine"))
        self.next += count
        return groups

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = state["next"]


def make_source(options):
    mark("data_source")
    return Source(options[RolloutConfig].n_samples_per_prompt)


async def rollout_function(step, rollout):
    kept = []
    for group in rollout.take(rollout.wanted + 1):
        finished = await rollout.produce(group)
        if rollout.judge(finished).keep and len(kept) < rollout.wanted:
            kept.append(finished)
    mark("rollout_function", step=step, wanted=rollout.wanted)
    return kept, {"rollout/mine": 5}


def sample_hook(sample):
    sample.metadata["seen"] = True
    mark("sample_hook", length=len(sample.tokens))


def sample_filter(groups):
    mark("sample_filter", groups=len(groups))
    return [groups[0].samples[0]]


def all_samples(groups, source):
    mark("all_samples", groups=[group.group_id for group in groups])
    source.put_back(source.take(1)[0])


def post_process(samples):
    mark("post_process", count=len(samples))
    return [sample.value - 0.5 for sample in samples]


def convert(batch, groups):
    mark("convert", count=len(batch), groups=len(groups))
    return replace(batch, advantages=batch.advantages * 2)


def data_postprocess(batch, advantages):
    mark("data_postprocess", step=batch.step, tokens=len(advantages))
    advantages[: batch.response_lengths[0]] = 9.0


def rollout_log(step, groups, metrics):
    mark("rollout_log", step=step, groups=len(groups))
    metrics["rollout/added"] = 4


async def evaluate(step, evaluation):
    name = evaluation.names[0]
    groups = [await evaluation.produce(name, group) for group in evaluation.groups(name)[:2]]
    mark("evaluate", step=step, set=name)
    return {name: groups, "eval/mine": 6}


def eval_log(step, results, metrics):
    mark("eval_log", step=step, sets=list(results))
    return True
