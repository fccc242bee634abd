"""Importing what a reference points at: a module's attribute or a file's."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from slimrl.edge import importing, last_line
from slimrl.errors import PluginError


def is_file_reference(reference: str) -> bool:
    """Whether a reference names a file: `path/to/file.py:attr`."""
    path, colon, _ = reference.rpartition(":")
    return bool(colon) and path.endswith(".py")


def absolute(reference: str) -> str:
    """The same reference with an absolute path, so that it means the same in another process."""
    if not is_file_reference(reference):
        return reference
    path, _, attribute = reference.rpartition(":")
    return f"{Path(path).expanduser().resolve()}:{attribute}"


def load_target(reference: str, noun: str) -> tuple[ModuleType, Any]:  # Any: whatever the user's module holds
    """The module and the object that `pkg.mod:attr`, `pkg.mod.attr` or `path/to/file.py:attr` names."""
    separator = ":" if ":" in reference else "."
    name, _, attribute = reference.rpartition(separator)
    if not name or not attribute:
        raise PluginError(f"{noun} {reference!r} is incomplete; write pkg.mod:attr or path/to/file.py:attr")
    is_file = is_file_reference(reference)
    module = _import_file(Path(name), reference, noun) if is_file else _import_module(name, reference, noun)
    target: Any = module
    for part in attribute.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise PluginError(_no_attribute(module, part, reference, noun)) from None
        except Exception as error:  # a module's own __getattr__, which may import
            raise PluginError(f"{noun} {reference!r}: {last_line(error)}") from error
    return module, target


def _import_file(path: Path, reference: str, noun: str) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"{noun} {reference!r}: there is no file {path}")
    # Named by its content: the same file is loaded once in a process, an edited one anew.
    digest = hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest()[:12]
    name = f"slimrl_file_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{noun} {reference!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        with importing(reference):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError(f"{noun} {reference!r}: importing {path} failed: {last_line(error)}") from error
    return module


def _import_module(name: str, reference: str, noun: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError(
            f"{noun} {reference!r}: {name!r} is no module name; write pkg.mod:attr or path/to/file.py:attr"
        )
    try:
        with importing(reference):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise PluginError(
                f"{noun} {reference!r}: there is no module {error.name!r}; install its package, add its folder to "
                f"PYTHONPATH, or write path/to/file.py:attr"
            ) from error
        raise PluginError(f"{noun} {reference!r}: importing {name} failed: {last_line(error)}") from error
    except Exception as error:
        raise PluginError(f"{noun} {reference!r}: importing {name} failed: {last_line(error)}") from error


def _no_attribute(module: ModuleType, attribute: str, reference: str, noun: str) -> str:
    where = module.__file__ or module.__name__
    public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
    close = difflib.get_close_matches(attribute, public, n=1)
    said = f"; did you mean {close[0]!r}?" if close else f"; it defines {', '.join(sorted(public)) or 'no functions'}"
    return f"{noun} {reference!r}: {where} has no {attribute!r}{said}"
