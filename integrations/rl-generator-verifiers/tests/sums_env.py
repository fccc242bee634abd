"""A verifiers environment in memory: sums, in one turn, or with a hint after a wrong answer."""

from __future__ import annotations

import verifiers.v1 as vf

__all__ = ["SumsEnv", "SumsTaskset"]


class SumData(vf.TaskData):
    answer: int


class SumTask(vf.Task[SumData]):
    @vf.reward
    async def correct(self, trace: vf.Trace) -> float:
        if "raise" in (trace.last_reply or ""):
            raise ValueError("the judge broke")
        return float(str(self.data.answer) in (trace.last_reply or ""))

    @vf.reward(weight=0.5)
    async def first_try(self, trace: vf.Trace) -> float:
        return float(trace.num_turns == 1)

    @vf.metric
    async def turns(self, trace: vf.Trace) -> float:
        return float(trace.num_turns)


class SumsTaskset(vf.Taskset[SumTask]):
    def load(self):
        for x in range(3, 7):
            yield SumTask(SumData(prompt=f"What is {x} + 4?", answer=x + 4), self.config.task)


class SumsConfig(vf.EnvConfig):
    solver: vf.AgentConfig = vf.AgentConfig()
    hints: int = 0


class SumsEnv(vf.Env[SumsConfig]):
    async def run(self, task: SumTask, agents: vf.Agents) -> None:
        async with agents.solver.interaction(task) as solver:
            said = await solver.turn()
            for _ in range(self.config.hints):
                if said.terminated or str(task.data.answer) in said.last_reply:
                    break
                said = await solver.turn("No. Try again.")
