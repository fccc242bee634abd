"""The shape of the house: imports point down, core knows no plugin, plugins know only what anybody may."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import slimrl
from slimrl import hookspecs, registry

ROOT = Path(__file__).parents[2]
CORE = ROOT / "core/slimrl"
PLUGIN_ROOTS = sorted(path for path in (ROOT / "plugins").iterdir() if path.is_dir())
PLUGIN_PACKAGES = [path for root in PLUGIN_ROOTS for path in root.iterdir() if (path / "__init__.py").exists()]
LAYERS = (
    {"errors", "types", "heap", "traits", "boxed", "tokenizer", "edge", "background"},
    {"protocols", "target"},
    {"hookspecs", "endpoint", "estimator", "algorithms"},
    {"slimrl"},  # the public names
    {"config"},
    {"registry"},
    {"scoring", "engines", "data", "observe", "hub", "interrupt", "claim"},
    {"rollout", "megatron", "sync", "checkpoints"},
    {"cluster", "saving", "run_start"},
    {"train", "replay"},
    {"testing", "scaffold"},
    {"cli"},
    {"__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
HEAVY = ("torch", "ray", "transformers", "sglang", "datasets", "numpy", "sympy", "megatron", "httpx", "starlette")


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def layer_of(dotted: str) -> str:
    """Which part of slimrl a dotted name is in; its public names and its version are `slimrl` itself."""
    name = [*dotted.split("."), ""][1]
    return "slimrl" if name in ("", *slimrl.__all__) else name


def core_files() -> list[Path]:
    return sorted(CORE.rglob("*.py"))


def plugin_files() -> list[Path]:
    return sorted(file for package in PLUGIN_PACKAGES for file in package.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_part_of_core_has_its_layer() -> None:
    parts = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__"} <= set(RANK), "say in LAYERS where the new part belongs"


@pytest.mark.parametrize("file", core_files(), ids=name_of)
def test_imports_point_down(file: Path) -> None:
    part = file.relative_to(CORE).parts[0].removesuffix(".py")
    if part == "__init__":
        part = "slimrl"
    upwards = [
        f"{name_of(file)}:{line} imports {name}"
        for line, name in imports(file)
        if name.split(".")[0] == "slimrl" and (layer := layer_of(name)) != part and RANK[layer] >= RANK[part]
    ]
    assert upwards == []


@pytest.mark.parametrize("file", core_files(), ids=name_of)
def test_core_imports_no_plugin(file: Path) -> None:
    packages = {package.name for package in PLUGIN_PACKAGES}
    assert [name for _, name in imports(file) if name.split(".")[0] in packages] == []


@pytest.mark.parametrize("file", plugin_files(), ids=name_of)
def test_a_plugin_imports_what_anybody_may(file: Path) -> None:
    own = next(package.name for package in PLUGIN_PACKAGES if file.is_relative_to(package))
    others = {package.name for package in PLUGIN_PACKAGES} - {own}
    public = {f"slimrl.{name}" for name in slimrl.__all__}
    private = [
        name
        for _, name in imports(file)
        if name.split(".")[0] in others
        or (name.split(".")[0] == "slimrl" and name not in public and not is_config_dataclass(name))
    ]
    assert private == []


def is_config_dataclass(name: str) -> bool:
    return name.startswith("slimrl.config.") and name.removeprefix("slimrl.config.") in slimrl.config.__all__


def test_no_module_lies_directly_in_a_source_root() -> None:
    roots = [ROOT / "core", *PLUGIN_ROOTS]
    assert [str(file) for root in roots for file in root.glob("*.py")] == []


@pytest.mark.parametrize("module", ["slimrl", "slimrl.registry", "slimrl.scoring", "slimrl.config"])
def test_importing_is_light(module: str) -> None:
    code = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_listing_the_plugins_is_light() -> None:
    heavy = tuple(name for name in HEAVY if name != "numpy")  # an estimator works on arrays
    code = (
        "import sys; from slimrl import registry; registry.load(); "
        f"print(*(name for name in {heavy!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_plugin_of_ours_loads() -> None:
    catalogue = registry.load(warn=False).catalogue
    assert [str(plugin) for plugin in catalogue.broken if plugin.origin.distribution == "slimrl"] == []
    offering = {offer.origin.module.split(".")[0] for offer in catalogue.offers}
    assert {package.name for package in PLUGIN_PACKAGES} <= offering


def hooks() -> list[str]:
    return [name for name in vars(hookspecs) if name.startswith("slimrl_")]


@pytest.mark.parametrize("hook", hooks())
def test_every_hook_is_documented_with_its_arguments(hook: str) -> None:
    parameters = ", ".join(inspect.signature(getattr(hookspecs, hook)).parameters)
    assert f"## `{hook}({parameters})`" in (ROOT / "docs/hooks.md").read_text(encoding="utf-8")


def test_every_kind_of_plugin_has_a_hook() -> None:
    assert {spec.hook for spec in registry.KINDS.values()} | {"slimrl_options"} == set(hooks())
