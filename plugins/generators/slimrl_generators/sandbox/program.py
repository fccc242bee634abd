"""A program of a model's, run as a user of an interactive session expects it."""

from __future__ import annotations

import io
import os
import sys

NAME = "<python>"
"""The program's file in tracebacks."""
TREE_ONLY = 0x400
"""ast.PyCF_ONLY_AST; the module ast takes longer to import than most programs run."""


def run(source: bytes, packages: str) -> None:
    """Run a program; the value of an expression at its end is shown. SystemExit where it raises."""
    from _ast import Expr, Expression

    main = type(sys)("__main__")
    sys.modules["__main__"] = main
    sys.argv = [NAME]
    assert isinstance(sys.stdout, io.TextIOWrapper), "Python made it"
    sys.stdout.reconfigure(line_buffering=True)  # a program that is killed has said what it had said
    sys.path.extend([packages] if packages else [])
    os.environ["HOME"] = os.environ["TMPDIR"] = os.getcwd()
    try:
        tree = compile(source, NAME, "exec", TREE_ONLY, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], Expr) else None
        exec(compile(tree, NAME, "exec", dont_inherit=True), vars(main))
        if last is not None:
            sys.displayhook(eval(compile(Expression(last.value), NAME, "eval", dont_inherit=True), vars(main)))
    except SystemExit:
        raise
    except BaseException as error:  # a program's edge: it may raise whatever it likes
        show_traceback(error, source)
        sys.exit(1)


def show_traceback(error: BaseException, source: bytes) -> None:
    """The traceback as the program's own frames make it, with its lines."""
    import linecache
    import traceback

    lines = source.decode(errors="replace").splitlines(keepends=True)
    linecache.cache[NAME] = (len(source), None, lines, NAME)
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    traceback.print_exception(error.with_traceback(frames))
