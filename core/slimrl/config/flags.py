"""Flags: the command line over a file over the defaults, with everything that is wrong reported at once."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from slimrl.config import Config
from slimrl.config.plugin_options import table_of
from slimrl.config.settings import Setting, build, build_options, categories, did_you_mean, settings
from slimrl.config.toml import read_toml
from slimrl.config.words import Given, given_flags
from slimrl.errors import ConfigError

SHAPE = (
    *("swiglu", "disable-bias-linear", "add-qkv-bias", "qk-layernorm", "normalization", "group-query-attention"),
    *("use-rotary-position-embeddings", "rotary-percent", "untie-embeddings-and-output-weights"),
    *("max-position-embeddings", "make-vocab-size-divisible-by", "num-experts", "moe-router-topk"),
    *("moe-ffn-hidden-size", "moe-layer-freq", "moe-shared-expert-intermediate-size"),
)
NEEDLESS = {
    "loss-mask-type": (
        "the checkpoint's own chat template says which tokens are the assistant's, whatever model it is of; leave it out"
    ),
    "colocate": (
        "an embedded engine shares the trainer's device anyway; leave it out, or start SGLang servers on the trainer's "
        "GPUs and name them with --rollout-external-engine-addrs"
    ),
    **dict.fromkeys(SHAPE, "the model's shape is read from --hf-checkpoint; leave it out"),
}
"""Flags that users of slime know, and why there is nothing to set here."""
SERVERS = "sglang-"
"""How slime's users give flags to the SGLang servers that slime starts."""

REWARD_CHOICES = frozenset({"rm_type", "reward", "custom_rm_path"})
"""Ways to say what scores: one given as a flag goes before all that a file says, not only before the same one."""

SHORT = {"async": "train-async"}
"""Flags with a second, shorter spelling."""

CONFIG_HELP = "TOML file of settings: a table per category, a key per flag. A flag overrides the file."


Origins = Mapping[str, str]
"""Where each setting's value came from, by name: 'default', 'file PATH', 'flag' or 'derived'."""


@dataclass(frozen=True)
class Parsed:
    """A configuration, and for every setting where its value came from."""

    config: Config
    origins: Origins
    switches: frozenset[str] = frozenset()
    """Which of the command's own switches were given."""
    plugin_options: tuple[object, ...] = ()
    """An instance of each of the plugins' dataclasses."""


def parse(
    argv: Sequence[str],
    *,
    prog: str = "slimrl train",
    description: str = "",
    switches: Mapping[str, str] | None = None,
    extra: Sequence[type] = (),
) -> Parsed:
    """Read flags and the file they name; `--help` prints the help and exits.

    `switches` are the command's own flags without a value, with their help; `extra` are the option dataclasses of
    plugins, each a table of the file and a group of flags. Raises ConfigError listing every unknown flag, unknown
    key and value of a wrong type.
    """
    table, own = settings(extra), dict(switches or {})
    if "--help" in argv or "-h" in argv:
        _print_help(prog, description, table, own, extra)
    problems: list[str] = []
    from_flags: dict[str, Any] = {}
    given_switches: set[str] = set()
    config_file: Path | None = None
    for given in given_flags(argv, problems, SHORT):
        setting = _setting(given, table)
        if given.typed == "config":
            if len(given.values) == 1:
                config_file = Path(given.values[0])
            else:
                problems.append(f"--config takes a path; got {given.text}")
        elif given.typed in own:
            given_switches.add(given.typed)
            if given.values:
                problems.append(f"--{given.typed} takes no value; got {given.text}")
        elif setting is None:
            problems.append(_unknown(given.typed, [*table, "config", *own]))
        else:
            value = _value(given, setting, problems)
            before = from_flags.get(setting.name) if setting.repeats else None
            from_flags[setting.name] = before + value if before and value else value
    from_file = read_toml(config_file, table, problems) if config_file else {}
    if problems:
        raise ConfigError(problems)
    if REWARD_CHOICES & from_flags.keys():
        from_file = {name: value for name, value in from_file.items() if name not in REWARD_CHOICES}
    origins = dict.fromkeys(table, "default") | dict.fromkeys(from_file, f"file {config_file}")
    values = {**from_file, **from_flags}
    return Parsed(
        config=build(values),
        origins=origins | dict.fromkeys(from_flags, "flag"),
        switches=frozenset(given_switches),
        plugin_options=build_options(extra, values),
    )


def _setting(given: Given, table: Mapping[str, Setting]) -> Setting | None:
    name = given.typed.replace("-", "_")
    if name in table:
        return table[name]
    positive = table.get(name.removeprefix("no_"))
    return positive if positive and positive.base is bool else None


def _unknown(typed: str, known: Sequence[str]) -> str:
    if typed in NEEDLESS:
        return f"--{typed} is not needed: {NEEDLESS[typed]}"
    close = did_you_mean(typed, [name.replace("_", "-") for name in known], "--")
    if typed.startswith(SERVERS) and not close:
        return (
            f"unknown flag --{typed}: slimrl starts no SGLang server; give it --{typed.removeprefix(SERVERS)} "
            "where you start it, and name it with --rollout-external-engine-addrs"
        )
    return f"unknown flag --{typed}" + close


def _value(given: Given, setting: Setting, problems: list[str]) -> Any:
    """The typed value by tyro's rules; notes a problem and returns None where it has none."""
    import tyro

    if given.values == ("",) and (setting.base is Path or (setting.base is str and setting.default is None)):
        # a script's variable is not set; an empty path would be the working directory
        problems.append(f"--{given.typed} takes {setting.expects}; got an empty one; leave it out, or give it a value")
        return None
    words = [f"--{given.typed}", *given.values]
    if len(given.values) == 1:  # joined, a value may begin with a dash
        words = ["=".join(words)]
    one = make_dataclass("One", [(setting.name, _annotated(setting), field(default=setting.default))])
    try:
        # tyro explains errors in a box of its own; ours are one line each and come together
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            parsed: object = tyro.cli(one, args=words)
    except SystemExit:
        takes = "no value" if setting.base is bool else setting.expects
        problems.append(f"--{given.typed} takes {takes}; got {given.text}")
        return None
    return getattr(parsed, setting.name)


def _annotated(setting: Setting) -> Any:
    from tyro.conf import arg

    return Annotated[setting.hint, arg(help=setting.help, metavar=_metavar(setting), help_behavior_hint=_hint(setting))]


def _metavar(setting: Setting) -> str | None:
    if setting.base is bool:
        return None
    if setting.choices:
        return "{" + ",".join(setting.choices) + "}"
    return f"[{setting.item.__name__.upper()} ...]" if setting.item else str(setting.base.__name__.upper())


def _hint(setting: Setting) -> str:
    if not setting.told_default:
        return ""
    return f"(default: {setting.told_default})"


def _print_help(
    prog: str, description: str, table: Mapping[str, Setting], own: Mapping[str, str], extra: Sequence[type]
) -> None:
    """Print every flag, grouped by category, and exit."""
    import tyro

    command: list[tuple[str, Any, Any]] = [
        (
            "config",
            Annotated[Path | None, tyro.conf.arg(help=CONFIG_HELP, metavar="PATH", help_behavior_hint="")],
            field(default=None),
        )
    ]
    for name, text in own.items():
        hint = Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help=text, help_behavior_hint="")]
        command.append((name.replace("-", "_"), hint, field(default=False)))
    groups = [("command", make_dataclass("Command", command))]
    for category, kind in (*categories().items(), *((table_of(kind), kind) for kind in extra)):
        entries = [(s.name, _annotated(s), field(default=s.default)) for s in table.values() if s.category == category]
        groups.append((category, make_dataclass(kind.__name__, entries, namespace={"__doc__": kind.__doc__})))
    everything = make_dataclass("Flags", [(name, kind, field(default_factory=kind)) for name, kind in groups])
    tyro.cli(everything, args=["--help"], prog=prog, description=description, config=(tyro.conf.OmitArgPrefixes,))
