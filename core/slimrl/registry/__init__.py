"""Plugins: found in installed packages or named by a path, resolved once before any process starts."""

from __future__ import annotations

from slimrl.registry.adapt import is_async_callable
from slimrl.registry.kinds import KINDS, RUN_HOOKS, Kind, RunHook
from slimrl.registry.options import Options
from slimrl.registry.plugin_set import PluginReferences, PluginSet, resolve_all
from slimrl.registry.resolve import Registry, Resolved, load
from slimrl.registry.rewards import Component, RewardReferences, RewardTable, resolve_rewards
from slimrl.registry.run_hook import RunHookFunction
from slimrl.registry.selection import PluginSelection

__all__ = [
    "KINDS",
    "RUN_HOOKS",
    "Component",
    "Kind",
    "Options",
    "PluginReferences",
    "PluginSelection",
    "PluginSet",
    "Registry",
    "Resolved",
    "RewardReferences",
    "RewardTable",
    "RunHook",
    "RunHookFunction",
    "is_async_callable",
    "load",
    "resolve_all",
    "resolve_rewards",
]
