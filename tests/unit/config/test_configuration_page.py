"""docs/configuration.md has every flag as it is."""

from __future__ import annotations

import re
from pathlib import Path

from slimrl.config.flags import SHORT, parse
from slimrl.config.reference import renew
from slimrl.config.settings import settings

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_table_of_flags_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == renew(page), "run: python -m slimrl.config.reference docs/configuration.md"


def test_every_flag_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [s.flag for s in settings().values() if f"| `{s.flag}`" not in page] == []


def test_every_flag_that_the_page_speaks_of_exists() -> None:
    known = (
        {setting.flag for setting in settings().values()}
        | {f"--{name}" for name in SHORT}
        | {"--config", "--dry-run", "--json", "--flag", "--end"}
    )
    spoken = set(re.findall(r"--[a-z][a-z0-9-]+", PAGE.read_text(encoding="utf-8")))
    negatives = {f"--no{setting.flag[1:]}" for setting in settings().values() if setting.base is bool}
    assert spoken - known - negatives == {"--no-flag"}


def test_the_file_on_the_page_can_be_read(tmp_path: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    (tmp_path / "run.toml").write_text(found[1])
    config = parse(["--config", str(tmp_path / "run.toml"), "--lr", "3e-6"]).config
    assert (config.rollout.rollout_batch_size, config.optimizer.lr) == (8, 3e-6)
