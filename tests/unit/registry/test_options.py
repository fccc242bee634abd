"""Option dataclasses of plugins: what is refused, and how they reach another process."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from slimrl import registry
from slimrl.config import GrpoConfig
from slimrl.registry import Options

PLUGIN = """
from __future__ import annotations
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from slimrl import hookimpl
DECORATOR
class CLASS:
    FIELDS
@hookimpl
def slimrl_options():
    return [CLASS]
@hookimpl
def slimrl_offer_rewards():
    return {"NAME": lambda options: lambda sample: 1.0}
"""


def plugin(fields: str, *, name: str = "short", kind: str = "ShortOptions", frozen: bool = True) -> str:
    decorator = "@dataclass(frozen=True)" if frozen else "@dataclass"
    source = PLUGIN.replace("FIELDS", fields).replace("CLASS", kind).replace("NAME", name)
    return source.replace("DECORATOR", decorator)


def reasons() -> dict[str, str]:
    return {p.origin.entry_point: p.reason for p in registry.load(warn=False).catalogue.broken}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (plugin("limit: int"), "ShortOptions.limit has no default"),
        (plugin("limit: int = 3", frozen=False), "ShortOptions must be frozen"),
        (plugin("limits: list[int] = field(default_factory=list)"), "ShortOptions.limits has the type list[int]"),
        (plugin("pair: tuple[int, str] = (1, 'a')"), "ShortOptions.pair has the type tuple[int, str]"),
        (plugin("level: Literal[1, 2] = 1"), "ShortOptions.level has the type"),
        (plugin("limit: Missing = 3"), "Missing"),
        (plugin("pass", kind="EvalOptions"), "would be the table [eval], which is taken"),
        (plugin("lr: float = 1.0"), "--lr (slimrl's own, in [optimizer])"),
        (plugin("json: bool = False"), "--json (a flag of the command)"),
    ],
)
def test_options_that_cannot_be_flags_make_a_broken_plugin_with_the_reason(install, source: str, said: str) -> None:
    install("rl-reward-short", {"short_plugin": source})
    assert said in reasons()["short_plugin"]


def test_a_clash_between_two_plugins_names_both(install) -> None:
    install("rl-reward-one", {"one_plugin": plugin("max_chars: int = 3", name="one", kind="OneOptions")})
    install("rl-reward-two", {"two_plugin": plugin("max_chars: int = 3", name="two", kind="TwoOptions")})
    reason = reasons()["two_plugin"]
    assert "TwoOptions" in reason
    assert "--max-chars (an option of plugin one_plugin (rl-reward-one 1.2, one_plugin))" in reason
    assert "one_plugin" not in reasons()


def test_every_type_that_flags_can_carry_is_taken(install) -> None:
    fields = "\n    ".join(
        [
            "a: bool = True",
            "b: int | None = None",
            "c: float = 0.5",
            "d: Path | None = None",
            "e: tuple[str, ...] = ()",
            "f: Literal['x', 'y'] = 'x'",
            "g: tuple[int, ...] = field(default_factory=lambda: (1, 2))",
        ]
    )
    install("rl-reward-short", {"short_plugin": plugin(fields)})
    assert "short_plugin" not in reasons()


def test_unpacking_in_another_process_imports_only_the_options_that_are_asked_for(install, tmp_path: Path) -> None:
    install("rl-reward-short", {"short_plugin": plugin("limit: int = 3")})
    import short_plugin

    message = pickle.dumps(Options([short_plugin.ShortOptions(9), GrpoConfig(eps_clip=0.3)])).hex()
    code = (
        "import pickle, sys\nsys.path.insert(0, sys.argv[2])\n"
        "options = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "from slimrl.config import GrpoConfig\n"
        "print(options[GrpoConfig].eps_clip, len(options), 'short_plugin' in sys.modules)\n"
        "import short_plugin\n"
        "print(options[short_plugin.ShortOptions].limit, len(list(options)))\n"
        "print(len(pickle.loads(pickle.dumps(options))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, message, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["0.3 2 False", "9 2", "2"]


def test_options_count_in_the_fingerprint() -> None:
    from slimrl.registry.fingerprint import fingerprint

    row = {"kind": "reward", "name": "math", "file": "/a", "reference": "math"}
    assert fingerprint([row], [GrpoConfig()]) == fingerprint([{**row, "file": "/b"}], [GrpoConfig()])
    assert fingerprint([row], [GrpoConfig()]) != fingerprint([row], [GrpoConfig(eps_clip=0.3)])
