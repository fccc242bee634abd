"""A verifiers environment that plays episodes in a thread of its own: its Python code stalls no other sample."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import threading
import tomllib
from pathlib import Path
from typing import Any

from slimrl import UsageError

HARNESS = "rl-generator-verifiers-harness"
POLICY = "policy"


class Stage:
    """Plays tasks of one environment against any OpenAI-compatible endpoint.

    The environment is loaded at once; its thread starts with the first episode and lives as long as the process.
    """

    def __init__(self, environment: str) -> None:
        if not environment:
            raise UsageError("--verifiers-env is missing: an installed taskset's name, or a TOML file of its settings")
        try:
            import verifiers.v1
        except ImportError as error:
            raise UsageError(f"verifiers cannot be imported ({error}): pip install 'slimrl[verifiers]'") from error
        self._vf: Any = verifiers.v1  # Any: pydantic classes whose fields an environment decides
        self._env = self._load(environment)
        self._tasks: list[Any] = []
        self._coming = iter(self._env.taskset)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def task(self, index: int) -> Any:  # Any: a Task of the environment
        """The task at a place of the taskset; IndexError behind its end."""
        with self._lock:
            missing = index + 1 - len(self._tasks)
            self._tasks += itertools.islice(self._coming, max(missing, 0))
            return self._tasks[index]

    async def play(self, task: Any, url: str, key: str) -> Any:  # Any: a task in, an Episode out
        """One episode; cancelling it ends the environment's work on it."""
        with self._lock:
            if self._loop is None:
                self._loop = _running_loop()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._episode(task, url, key), self._loop))

    async def _episode(self, task: Any, url: str, key: str) -> Any:  # Any: as play
        # verifiers takes a key from an environment variable alone, and keeps a name with API_KEY from programs it runs
        name = f"SLIMRL_API_KEY_{secrets.token_hex(8)}"
        os.environ[name] = key
        try:
            client = self._vf.EvalClientConfig(base_url=url, api_key_var=name)
            context = self._vf.ModelContext(POLICY, client, self._vf.Sampling())
            return await self._env.run_episode(task, context)
        finally:
            del os.environ[name]

    def _load(self, environment: str) -> Any:  # Any: an Env
        settings = read_settings(environment)
        taskset, env_id = settings["taskset"].get("id", ""), settings.get("id", "")
        try:
            kind = self._vf.env_config_type(taskset, env_id)
            agents = [
                name for name, field in kind.model_fields.items() if isinstance(field.default, self._vf.AgentConfig)
            ]
            for name in agents:
                agent = settings.setdefault(name, {})
                agent.setdefault("harness", {"id": HARNESS})
                agent.setdefault("runtime", {"type": "subprocess"})
            env = self._vf.load_environment(self._vf.resolve_env_config(settings))
        except Exception as error:  # the environment's own code, and pydantic's errors
            raise UsageError(f"the verifiers environment {environment!r} cannot be loaded: {error}") from error
        if len(agents) != 1:
            raise UsageError(
                f"the verifiers environment {environment!r} has the agents {', '.join(agents)}; "
                "only an environment with one agent can be trained on"
            )
        if env.taskset.toolsets(env.taskset.config) or type(env.taskset).task_type().toolsets(env.taskset.config.task):
            raise UsageError(f"the verifiers environment {environment!r} has tools; these are not offered to the model")
        return env


def read_settings(environment: str) -> dict[str, Any]:
    """verifiers' own settings of an environment: those of a TOML file, or the taskset of this name."""
    if not environment.endswith(".toml"):
        return {"taskset": {"id": environment}}
    try:
        settings: dict[str, Any] = tomllib.loads(Path(environment).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--verifiers-env {environment}: {error}") from error
    settings = settings["env"] if isinstance(settings.get("env"), dict) else settings
    if not isinstance(settings.get("taskset"), dict):
        raise UsageError(f"--verifiers-env {environment}: no table [taskset] (or [env.taskset]) with an id")
    return settings


def _running_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="verifiers", daemon=True).start()
    return loop
