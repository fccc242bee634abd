"""`slimrl check`: the conformance checks of one plugin, before a run depends on it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from slimrl.cli.command_flags import print_help, read_flags, typed_settings, wants_help
from slimrl.cli.main import EXIT_FAILED
from slimrl.cli.plugin_flags import check_options, load_plugins
from slimrl.cli.reward_flags import check_scoring
from slimrl.config import CkptConfig, Config, RolloutConfig
from slimrl.errors import UsageError
from slimrl.registry import Kind, Options, Registry
from slimrl.target import absolute
from slimrl.testing.finding import Finding
from slimrl.testing.golden import read_golden
from slimrl.testing.suites import CHECKED_KINDS, NOUNS, Suite

USAGE: Final = "slimrl check REFERENCE [FLAGS]"
ABOUT: Final = (
    "Run the conformance checks of a plugin: a name, pkg.mod:attr or path/to/file.py:attr. Exit status 0 if none "
    "fails, 1 if one does, 2 if the reference leads to no plugin."
)
FILTER: Final = "filter"
"""What `slimrl new` calls a dynamic filter."""
MARKS: Final = {"ok": ("ok", "green"), "warning": ("warn", "yellow"), "failure": ("FAIL", "bold red")}


@dataclass(frozen=True)
class CheckFlags:
    """The flags of `slimrl check`."""

    kind: str | None = None
    """What the plugin is: reward, dynamic_filter, buffer_filter, generator or advantage. Unset: the kind that is offered under the name, else a reward."""  # noqa: E501
    input: Path | None = None
    """JSON lines file of examples: {response, label, expected?, prompt?, metadata?}. What is expected is a number, an object of components, null (it abstains) or "error"."""  # noqa: E501
    rm_timeout: float | None = None
    """Seconds that scoring one sample may take. Unset: what the reward says that it needs, else 3."""
    reward_key: str | None = None
    """Which of a reward's named components is its value."""
    group_rm: bool = False
    """The reward is called with a whole group."""
    rm_url: str | None = None
    """Where the reward remote_rm posts samples to."""
    hf_checkpoint: Path | None = None
    """Checkpoint whose tokenizer a generator works with."""
    json: bool = False
    """Print JSON instead of a table."""


def main(argv: Sequence[str]) -> int:
    """Check one plugin; raises UsageError where there is none to check."""
    registry, words = load_plugins(argv)
    option_types = registry.catalogue.option_types
    if wants_help(words):
        print_help(USAGE, ABOUT, CheckFlags, option_types)
        return 0
    if not words or words[0].startswith("-"):
        raise UsageError(f"usage: {USAGE}")
    flags, plugin_options = read_flags(words[1:], CheckFlags, option_types)
    if problems := list(check_scoring(flags.rm_timeout, None)):
        raise UsageError(problems)
    suite = _suite(words[0], flags, registry, plugin_options)
    # PluginError where there is nothing to check
    check_options(registry, [suite.resolved], typed_settings(words[1:]))
    findings = _show(suite) if not flags.json else list(suite)
    if flags.json:
        sys.stdout.write(json.dumps(_document(suite, findings), ensure_ascii=False, indent=1) + "\n")
    return EXIT_FAILED if any(finding.outcome == "failure" for finding in findings) else 0


def _suite(reference: str, flags: CheckFlags, registry: Registry, plugin_options: Sequence[Any]) -> Suite:
    kind = _kind(reference, flags.kind, registry)
    only_rewards = {"--input": flags.input, "--reward-key": flags.reward_key, "--group-rm": flags.group_rm or None}
    unused = [name for name, value in only_rewards.items() if value is not None]
    if kind != "reward" and unused:
        raise UsageError(f"{unused[0]} is for rewards; {reference!r} is checked as {NOUNS[kind]}")
    if kind != "generator" and flags.hf_checkpoint is not None:
        raise UsageError(f"--hf-checkpoint is for generators; {reference!r} is checked as {NOUNS[kind]}")
    if flags.hf_checkpoint is not None and not flags.hf_checkpoint.is_dir():  # a tokenizer alone will do
        what = "is a file" if flags.hf_checkpoint.exists() else "does not exist"
        raise UsageError(f"--hf-checkpoint {flags.hf_checkpoint} {what}; expected the folder of a tokenizer")
    config = Config(
        ckpt=CkptConfig(hf_checkpoint=flags.hf_checkpoint),
        rollout=RolloutConfig(reward_key=flags.reward_key, rm_url=flags.rm_url),
    )
    return Suite(
        kind=kind,
        reference=absolute(reference),
        examples=read_golden(flags.input) if flags.input else (),
        options=Options([*(getattr(config, field.name) for field in fields(config)), *plugin_options]),
        reward_key=flags.reward_key,
        is_group=flags.group_rm,
        timeout_s=flags.rm_timeout,
        registry=registry,
    )


def _kind(reference: str, asked: str | None, registry: Registry) -> Kind:
    if asked is None:
        kinds = {o.kind for o in registry.catalogue.offers if reference in (o.name, o.qualified_name)}
        return kinds.pop() if len(kinds) == 1 and kinds <= set(CHECKED_KINDS) else "reward"
    word = asked.replace("-", "_")
    for kind in CHECKED_KINDS:
        if word == kind or (word == FILTER and kind == "dynamic_filter"):
            return kind
    raise UsageError(f"--kind {asked}: there are checks for {', '.join(CHECKED_KINDS)}")


def _show(suite: Suite) -> list[Finding]:
    """Print each finding as it comes: a reward that is slow is slow here too."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else 100_000, highlight=False)
    console.print(Text(f"{NOUNS[suite.kind]} {suite.reference}"))
    width = max(map(len, suite.names))
    findings: list[Finding] = []
    for finding in suite:
        findings.append(finding)
        mark, style = MARKS[finding.outcome]
        line = Text(f"  {mark:<4}", style) + Text(f"  {finding.check:<{width}}  {finding.sentence}", "")
        console.print(line + Text(f": {finding.detail}" if finding.detail else "", "dim" if mark == "ok" else style))
    counts = {outcome: sum(finding.outcome == outcome for finding in findings) for outcome in MARKS}
    left = len(suite.names) - len(findings)
    console.print(
        f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failure']} failures"
        + (f"; {left} checks not run" if left else "")
    )
    return findings


def _document(suite: Suite, findings: Sequence[Finding]) -> dict[str, Any]:
    found = suite.resolved
    return {
        "kind": suite.kind,
        "reference": found.reference,
        "name": found.name,
        "shape": found.shape,
        "distribution": found.distribution,
        "version": found.version,
        "file": None if found.file is None else str(found.file),
        "sha256": found.file_hash,
        "outcome": max((finding.outcome for finding in findings), key=list(MARKS).index),
        "findings": [asdict(finding) for finding in findings],
    }
