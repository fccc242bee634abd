"""`slimrl convert` where nothing can be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from slimrl.cli.main import main


def test_a_folder_in_which_nothing_can_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # not even root makes a folder there
    assert main(["convert", "--to", "hf", "--input", str(tmp_path), "--output", "/proc/converted"]) == 2
    assert capsys.readouterr().err.startswith("error: /proc/.converted.partial-")
