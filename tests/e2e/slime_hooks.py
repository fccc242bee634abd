"""Functions of slime's shapes: each writes what it saw into marks.jsonl."""

import asyncio
import json
import os
import threading
from pathlib import Path

import httpx


def mark(name, **fields):
    with Path("marks.jsonl").open("a") as file:
        file.write(json.dumps({"hook": name, "pid": os.getpid(), **fields}) + "\n")


async def generate(args, sample, sampling_params, evaluation=False):
    url = f"http://{args.sglang_router_ip}:{args.sglang_router_port}/generate"
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"input_ids": sample.tokens, "sampling_params": sampling_params, "return_logprob": True}
        answer = (await client.post(url, json=body, timeout=60)).json()
    found = answer["meta_info"]["output_token_logprobs"]
    tokens = [entry[1] for entry in found]
    sample.tokens = sample.tokens + tokens
    sample.response_length += len(tokens)
    sample.response += answer["text"]
    sample.rollout_log_probs = (sample.rollout_log_probs or []) + [entry[0] for entry in found]
    reason = answer["meta_info"]["finish_reason"]["type"]
    sample.status = sample.Status.TRUNCATED if reason == "length" else sample.Status.COMPLETED
    mark("generate", evaluation=evaluation, length=len(tokens), max_new=sampling_params["max_new_tokens"])
    return sample


def sample_hook(args, sample, *, rollout_id=None, evaluation=False):
    sample.metadata["seen"] = f"step {rollout_id}"
    mark("sample_hook", rollout_id=rollout_id, evaluation=evaluation, length=sample.response_length)


async def second_sample_hook(args, sample):
    sample.metadata["seen_again"] = sample.metadata["seen"]
    mark("second_sample_hook")
    return sample


def sample_filter(args, groups):
    groups[0][0].remove_sample = True
    mark("sample_filter", sizes=[len(group) for group in groups], removed=groups[0][0].index)


def all_samples(args, all_groups, data_source):
    mark("all_samples", groups=len(all_groups), rows=len(data_source), label=data_source.label_of_class)
    data_source.add_samples([data_source.get_samples(1)[0]])


def post_process(args, samples):
    raw = [sample.get_reward_value(args) for sample in samples]
    mark("post_process", count=len(samples), response=len(samples[0].loss_mask))
    return raw, [reward - 0.5 for reward in raw]


def data_postprocess(args, rollout_id, rollout_data):
    rollout_data["advantages"][1].fill_(7.0)
    rollout_data["loss_masks"][1][-1] = 0
    mark("data_postprocess", rollout_id=rollout_id, lengths=rollout_data["response_lengths"])


class Prompt:
    def __init__(self, prompt):
        self.prompt, self.label, self.metadata = prompt, None, {"from": "class"}


class Source:
    label_of_class = "mine"

    def __init__(self, args):
        self.args, self.at, self.added = args, 0, []
        mark("data_source", size=args.n_samples_per_prompt)

    def get_samples(self, count):
        groups = self.added[:count]
        del self.added[: len(groups)]
        while len(groups) < count:
            groups.append([Prompt(str(1 + self.at % 8)) for _ in range(self.args.n_samples_per_prompt)])
            self.at += 1
        mark("get_samples", count=count, at=self.at)
        return groups

    def add_samples(self, groups):
        self.added += groups
        mark("add_samples", group=groups[0][0].group_index)

    def save(self, rollout_id):
        Path(self.args.save, "at.json").write_text(json.dumps(self.at))

    def load(self, rollout_id):
        self.at = json.loads(Path(self.args.load, "at.json").read_text())
        mark("load", at=self.at)

    def __len__(self):
        return 8


def rollout_log(rollout_id, args, samples, rollout_extra_metrics, rollout_time):
    mark("rollout_log", rollout_id=rollout_id, count=len(samples), mean=rollout_extra_metrics["rollout/reward_mean"])
    return True


def evaluate(args, rollout_id, data_source, evaluation=False):
    mark("evaluate", rollout_id=rollout_id, evaluation=evaluation)
    return {"own": {"rewards": [1.0, 0.0, None], "truncated": [True, False, False]}}


def eval_log(rollout_id, args, data, extra_metrics):
    extra_metrics["eval/added"] = 3
    mark("eval_log", rollout_id=rollout_id, mean=extra_metrics["eval/own"])
    return False


def generate_rollout(args, rollout_id, data_source, evaluation=False):
    async def fill(groups):
        params = {"max_new_tokens": args.rollout_max_response_len, "temperature": args.rollout_temperature}
        await asyncio.gather(*(generate(args, sample, dict(params)) for group in groups for sample in group))

    groups = data_source.get_samples(args.rollout_batch_size + 1)
    asyncio.run(fill(groups[:-1]))
    for sample in groups[0]:
        sample.reward = float(sample.index)
    data_source.add_samples(groups[-1:])
    mark("generate_rollout", rollout_id=rollout_id, groups=len(groups), thread=threading.current_thread().name)
    return groups[:-1]


def convert(args, samples):
    mark("convert", count=len(samples))
    return {
        "tokens": [sample.tokens for sample in samples],
        "response_lengths": [sample.response_length for sample in samples],
        "rewards": [3.0 for _ in samples],
        "loss_masks": [sample.loss_mask for sample in samples],
        "sample_indices": [sample.index for sample in samples],
    }
