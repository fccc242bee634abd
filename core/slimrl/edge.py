"""A plugin's edge: what its module does while it is imported stays its own affair."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def importing(what: str) -> Iterator[None]:
    """Run a plugin's import: what it prints goes to stderr, what it warns of to the log; `sys.exit` is an error.

    A command's stdout is often read by another program, and a warning is no reason to fail, whatever filter of
    warnings this process has.
    """
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("always")
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if isinstance(error, Exception):
                raise
            # SystemExit and its like would end the command without a word
            raise ImportError(f"{last_line(error)}") from error
    for warning in caught:
        logger.debug("%s warns: %s: %s", what, warning.category.__name__, warning.message)


def last_line(error: BaseException) -> str:
    """The last line of a traceback and where it was raised."""
    message = traceback.format_exception_only(error)[-1].strip()
    machinery = ("<frozen", str(Path(importlib.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(machinery)]
    if not frames or isinstance(error, SyntaxError):
        return message
    return f"{message} ({frames[-1].filename}:{frames[-1].lineno})"
