"""An agent that knows nothing of slimrl: it answers, looks at its answer once more, and answers again.

It runs as a command (the task is a line of JSON on stdin, the endpoint is in the environment) and as a function.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from openai import AsyncOpenAI, OpenAI

CHECK = {"role": "user", "content": "Check it. Answer with the number alone."}


def opening(prompt: Any) -> list[Any]:
    """The first messages: a prompt is a text, or messages already."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [*prompt]


async def act(base_url: str, api_key: str, sample: Any) -> None:
    """The agent as a function inside of the run: `--agent-path examples/openai_agent/agent.py:act`."""
    messages = opening(sample.prompt)
    async with AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        reply = await client.chat.completions.create(model="policy", messages=messages, max_tokens=8)
        messages += [reply.choices[0].message, CHECK]
        await client.chat.completions.create(model="policy", messages=messages)


def main() -> None:
    """The agent as a program of its own: `--agent-command "python examples/openai_agent/agent.py"`."""
    messages = opening(json.loads(sys.stdin.readline())["prompt"])
    client = OpenAI()  # OPENAI_BASE_URL and OPENAI_API_KEY
    reply = client.chat.completions.create(model="policy", messages=messages, max_tokens=8)
    messages += [reply.choices[0].message, CHECK]
    client.chat.completions.create(model="policy", messages=messages)


if __name__ == "__main__":
    main()
