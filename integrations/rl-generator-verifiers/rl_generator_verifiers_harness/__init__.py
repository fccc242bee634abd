"""The verifiers harness that a run uses: one request a turn, in this process, without tools."""

from __future__ import annotations

from typing import Any

import verifiers.v1 as vf
from verifiers.v1.dialects.chat import message_to_wire

__all__ = ["SlimrlHarness"]


class SlimrlHarness(vf.Harness[vf.HarnessConfig]):
    """Asks the model once with the conversation so far; the environment says what comes next."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace[Any, Any],
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """One turn; a model that has written all it may ends the conversation, which is no failure."""
        import httpx

        system, prompt = self.resolve_prompt(data)
        messages: list[Any] = [{"role": "system", "content": system}] if system else []
        if isinstance(prompt, str):
            messages.append({"role": "user", "content": prompt})
        else:
            messages += [message_to_wire(message) for message in prompt or ()]
        # a plain-HTTP address on this machine: no certificates to load, no proxy to ask
        async with httpx.AsyncClient(timeout=None, verify=False, trust_env=False) as client:
            answer = await client.post(
                f"{endpoint}/chat/completions",
                headers={"authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": messages},
            )
        if answer.status_code == 200 or "context_length_exceeded" in answer.text:
            return vf.ProgramResult(0, "", "")
        return vf.ProgramResult(1, "", answer.text[:2000])
