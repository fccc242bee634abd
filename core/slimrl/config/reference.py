"""The table of flags in docs/configuration.md: `python -m slimrl.config.reference PAGE` renews it."""

from __future__ import annotations

import sys
from pathlib import Path

from slimrl.config.settings import Setting, categories, settings

BEGIN, END = "<!-- flags: written by slimrl.config.reference -->\n", "<!-- end of flags -->\n"


def reference() -> str:
    """Markdown: a table of flags per category, in the order of the dataclasses."""
    table = settings()
    parts = []
    for category, kind in categories().items():
        rows = [_row(setting) for setting in table.values() if setting.category == category]
        parts += [f"### [{category}]", "", kind.__doc__ or "", "", "| flag | takes | default | |", "|---|---|---|---|"]
        parts += [*rows, ""]
    return "\n".join(parts)


def renew(page: str) -> str:
    """The page with its table of flags written anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def _row(setting: Setting) -> str:
    takes = "" if setting.base is bool else setting.expects
    flag = f"`{setting.flag}`" + (f" / `--no{setting.flag[1:]}`" if setting.base is bool else "")
    default = f"`{setting.told_default}`" if setting.told_default else ""
    return f"| {flag} | {takes} | {default} | {setting.help.replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renew(path.read_text(encoding="utf-8")), encoding="utf-8")
