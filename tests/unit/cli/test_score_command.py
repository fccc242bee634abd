"""`slimrl score`: files in, outcomes out, whatever the lines, the rewards and the machine do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimrl import Sample, Score
from slimrl.cli.command_flags import read_flags
from slimrl.cli.reward_flags import shown_command
from slimrl.cli.score import ScoreFlags
from slimrl.errors import ConfigError
from slimrl.scoring.sample_file import RowKeys, SampleFile

Run = Callable[..., Any]

REWARDS = r"""
import os, time
def score(sample):
    match sample.response:
        case "raise": raise ValueError("no such answer")
        case "hang": time.sleep(1000)
        case "die": os._exit(3)
        case "none": return None
        case "slow": time.sleep(0.1)
    return float(sample.response == str(sample.label))
def parts(sample):
    return {"right": float(sample.response == sample.label), "length": len(sample.response)}
def seen(sample):
    return {"prompt": sample.prompt, "label": sample.label, "metadata": sample.metadata, "status": str(sample.status)}
def length(sample):
    return len(sample.response)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    return tmp_path


def write(folder: Path, lines: Sequence[Any], name: str = "in.jsonl") -> None:
    """Lines as JSON; a string is written as it is."""
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / name).write_text(text)


def read(folder: Path, name: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


FILES = ("--input", "in.jsonl", "--output", "out.jsonl")


def test_each_line_is_answered_in_order_and_the_summary_counts(slimrl: Run, folder: Path) -> None:
    responses = ["4", "raise", "5", "none", "die", "hang", "slow", "4"]
    write(folder, [{"response": response, "label": "4"} for response in responses])
    outcome = slimrl("score", "--custom-rm-path", "rewards.py:score", *FILES, "--rm-timeout", 1, "--json")
    assert (outcome.code, outcome.heavy) == (0, [])
    rows = read(folder)
    assert [row["index"] for row in rows] == list(range(8))
    statuses = ["scored", "error", "scored", "abstained", "error", "timeout", "scored", "scored"]
    assert [row["status"] for row in rows] == statuses
    assert [row["value"] for row in rows] == [1.0, None, 0.0, None, None, None, 0.0, 1.0]
    assert "ValueError: no such answer" in rows[1]["reason"]
    assert set(rows[0]) == {"index", "status", "reward", "value", "components", "reason", "seconds"}
    assert rows[6]["seconds"] >= 0.1
    summary = json.loads(outcome.stdout)
    assert summary["counts"] == {"scored": 4, "abstained": 1, "error": 2, "timeout": 1}
    assert (summary["lines"], summary["mean_value"], summary["kept_lines"]) == (8, 0.5, 0)
    assert summary["seconds"] > 0


def test_the_summary_for_people_is_a_table_with_examples(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": "4", "label": "4"}, "nonsense [bold]"])
    outcome = slimrl("score", "--rm-type", "f1", *FILES)
    assert outcome.code == 0
    cells = dict(line.split(None, 1) for line in outcome.stdout.splitlines() if len(line.split(None, 1)) == 2)
    assert (cells["lines"].strip(), cells["scored"].strip(), cells["error"].strip()) == ("2", "1", "1")
    assert cells["mean"].split() == ["value", "1.0000"]
    assert "index 1, error: in.jsonl:2: not a JSON object" in outcome.stdout


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{broken", "in.jsonl:1: not a JSON object: "),
        ("", "in.jsonl:1: the line is empty"),
        ("[1]", "in.jsonl:1: expected a JSON object, got list"),
        ("[" * 200_000, "in.jsonl:1: not a JSON object: "),
        ({"label": "4"}, "in.jsonl:1: no key 'response' (--response-key); this line has: label"),
        ({"response": "4", "prompt": 3}, "in.jsonl:1: 'prompt' must be a string or a list of chat messages, got int"),
    ],
    ids=["broken", "empty", "list", "deep", "no response", "prompt"],
)
def test_a_line_that_cannot_be_read_is_an_error_outcome(slimrl: Run, folder: Path, line: Any, said: str) -> None:
    write(folder, [line, {"response": "4", "label": "4"}])
    assert slimrl("score", "--rm-type", "f1", *FILES).code == 0
    bad, good = read(folder)
    assert (bad["status"], bad["value"], bad["reward"]) == ("error", None, None)
    assert bad["reason"].startswith(said)
    assert good["value"] == 1.0


@pytest.mark.parametrize("response", [4, None, ["4"], True])
@pytest.mark.parametrize("reward", ["deepscaler", "dapo", "boxed_f1"])
def test_a_response_that_is_no_text_is_for_the_reward_to_judge(
    slimrl: Run, folder: Path, reward: str, response: Any
) -> None:
    write(folder, [{"response": response, "label": "4"}, {"response": "4", "label": "4"}])
    assert slimrl("score", "--rm-type", reward, *FILES).code == 0
    odd, good = read(folder)
    assert (odd["status"], odd["value"]) == ("error", None)
    assert good["status"] == "scored"


@given(st.lists(st.binary(max_size=60).map(lambda b: b.replace(b"\n", b" ")), max_size=5))
def test_no_bytes_make_reading_fail(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("bytes") / "in.jsonl"
    path.write_bytes(b"\n".join(lines))
    file = SampleFile(path, RowKeys())
    found = list(file.samples())
    assert len(found) == file.scan().num_lines
    assert all(isinstance(one, Sample | Score) for _, _, one in found)


def test_keys_are_renamed_by_flags_and_missing_ones_have_defaults(slimrl: Run, folder: Path) -> None:
    chat = [{"role": "user", "content": "2 + 2"}]
    write(folder, [{"answer": "4", "gold": 4, "ask": chat, "extra": {"level": 2}}, {"answer": "4", "extra": "odd"}])
    keys = ("--response-key", "answer", "--label-key", "gold", "--prompt-key=ask", "--metadata_key", "extra")
    assert slimrl("score", "--custom-rm-path", "rewards.py:seen", *FILES, *keys).code == 0
    first, second = (row["reward"] for row in read(folder))
    assert first == {"prompt": chat, "label": 4, "metadata": {"level": 2}, "status": "completed"}
    assert second == {"prompt": "", "label": None, "metadata": {}, "status": "completed"}


def test_a_mapping_needs_no_key_and_a_key_picks_the_value(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": "four", "label": "four"}])
    command = ("score", "--custom-rm-path", "rewards.py:parts", "--input", "in.jsonl", "--output")
    assert slimrl(*command, "all.jsonl").code == 0
    assert slimrl(*command, "one.jsonl", "--reward-key", "length").code == 0
    (without,), (picked,) = read(folder, "all.jsonl"), read(folder, "one.jsonl")
    assert (without["status"], without["value"]) == ("scored", None)
    assert without["reward"] == picked["reward"] == {"right": 1.0, "length": 4}
    assert without["components"] == picked["components"] == {"right": 1.0, "length": 4.0}
    assert picked["value"] == 4.0


def test_a_mix_adds_weighted_values(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": "four", "label": "four"}])
    mix = ("--reward", "f1=2", "--reward", "rewards.py:length=0.5")
    assert slimrl("score", *mix, *FILES).code == 0
    (row,) = read(folder)
    assert row["value"] == 2 * 1.0 + 0.5 * 4
    assert (row["components"]["f1"], row["components"]["length"]) == (1.0, 4.0)


def test_a_line_may_name_its_own_reward_and_a_wrong_name_is_its_own_error(slimrl: Run, folder: Path) -> None:
    lines: list[Any] = [
        {"response": r"\boxed{4}", "label": "4", "metadata": {"rm_type": "math"}},
        {"response": "4", "label": "4", "metadata": {"rm_type": " f1 "}},
        {"response": "4", "label": "4", "metadata": {"rm_type": "mathh"}},
        {"response": "4", "label": "4", "metadata": "math"},
        {"response": "4", "label": "4"},
    ]
    write(folder, lines)
    assert slimrl("score", *FILES).code == 0
    rows = read(folder)
    assert [row["status"] for row in rows] == ["scored", "scored", "error", "error", "error"]
    assert "did you mean 'math'?" in rows[2]["reason"]
    assert "no reward" in rows[4]["reason"]
    assert slimrl("score", *FILES[:2], "--output", "default.jsonl", "--rm-type", "f1").code == 0
    assert [row["value"] for row in read(folder, "default.jsonl")] == [1.0, 1.0, None, 1.0, 1.0]


def test_a_file_without_lines_has_no_outcomes(slimrl: Run, folder: Path) -> None:
    write(folder, [])
    outcome = slimrl("score", "--rm-type", "f1", *FILES, "--json")
    assert (outcome.code, json.loads(outcome.stdout)["lines"]) == (0, 0)
    assert read(folder) == []


def test_the_last_line_needs_no_line_break(slimrl: Run, folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"response": "4", "label": "4"}')
    assert slimrl("score", "--rm-type", "f1", *FILES).code == 0
    assert [row["value"] for row in read(folder)] == [1.0]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rm-tpye", "f1", *FILES], "unknown flag --rm-tpye; did you mean --rm-type?"),
        (["--rm-type", "f2", *FILES], "there is no reward 'f2' (--rm-type or --custom-rm-path); did you mean 'f1'?"),
        (["--reward", "f2=1", *FILES], "there is no reward 'f2'"),
        (["--reward", "f1=much", *FILES], "--reward takes REWARD=WEIGHT, the weight a finite number; got 'f1=much'"),
        (["--custom-rm-path", "rewards.py:scor", *FILES], "has no 'scor'; did you mean 'score'?"),
        ([*FILES], "no reward: give --rm-type NAME"),
        (["--rm-type", "f1", "--output", "out.jsonl"], "--input is required"),
        (["--rm-type", "f1", "--input", "in.jsonl"], "--output is required"),
        (["--rm-type", "f1", "--input", "no.jsonl", "--output", "out.jsonl"], "--input no.jsonl: there is no such"),
        (["--rm-type", "f1", "--input", "in.jsonl", "--output", "in.jsonl"], "--output in.jsonl is the input"),
        (["--rm-type", "f1", "--input", "in.jsonl", "--output", "no/out.jsonl"], "there is no folder no"),
        (["--rm-type", "f1", *FILES, "--rm-timeout", "0"], "--rm-timeout must be above 0; got 0"),
        (["--rm-type", "f1", *FILES, "--rm-workers", "0"], "--rm-workers must be 1 or more; got 0"),
        (["--rm-type", "f1", *FILES, "--rm-workers", "two"], "--rm-workers takes a whole number; got 'two'"),
        (["--rm-type", "f1", *FILES, "--json", "yes"], "--json takes no value; got 'yes'"),
        (["--rm-type", "f1", *FILES, "--rm-url", "http://h/"], "--rm-url has no effect without remote_rm"),
        (["--rm-type", "remote_rm", *FILES], "remote_rm needs --rm-url"),
        (["--rm-type", "f1", "-p", "no:f1", *FILES], "disabled"),
        (["f1", *FILES], "unexpected argument 'f1'"),
    ],
)
def test_a_wrong_command_is_one_clear_error_and_leaves_nothing(
    slimrl: Run, folder: Path, flags: list[str], said: str
) -> None:
    write(folder, [{"response": "4", "label": "4"}])
    before = {path.name for path in folder.iterdir()} | {"__pycache__"}
    outcome = slimrl("score", *flags)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert {path.name for path in folder.iterdir()} <= before


def test_the_options_of_a_plugin_are_flags(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": r"\boxed{4}", "label": "4"}])
    strict = ("--rm-type", "dapo", "--input", "in.jsonl", "--dapo-strict-box-verify", "--output", "strict.jsonl")
    assert slimrl("score", *strict).code == 0
    assert slimrl("score", "--rm-type", "dapo", *FILES).code == 0
    assert (read(folder, "strict.jsonl")[0]["value"], read(folder)[0]["value"]) == (1.0, -1.0)
    outcome = slimrl("score", "--rm-type", "dapo", "--input", "in.jsonl", "--output", "strict.jsonl")
    assert (outcome.code, "was made from another plugin option" in outcome.stderr) == (2, True)


def test_help_shows_the_flags_of_plugins_too(slimrl: Run) -> None:
    outcome = slimrl("score", "--help")
    assert (outcome.code, outcome.heavy) == (0, [])
    for flag in ("--rm-type", "--response-key", "--remote-rm-concurrency", "-p no:NAME"):
        assert flag in outcome.stdout


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "slimrl", "score", *flags]


def start(folder: Path, num_lines: int) -> subprocess.Popen[str]:
    """A command that takes a while, stopped once it has written a few lines."""
    write(folder, [{"response": "slow", "label": i} for i in range(num_lines)])
    process = subprocess.Popen(
        command("--custom-rm-path", "rewards.py:score", *FILES, "--rm-workers", "1"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        # a shell that starts the tests in the background has them ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not (folder / "out.jsonl").exists() or len((folder / "out.jsonl").read_bytes().splitlines()) < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    return process


def test_a_killed_command_is_continued_and_a_torn_line_dropped(slimrl: Run, folder: Path) -> None:
    with start(folder, 60) as process:
        process.kill()
    done = (folder / "out.jsonl").read_bytes()
    assert 3 <= done.count(b"\n") < 60
    torn = done + b'{"index": 99, "sta'
    (folder / "out.jsonl").write_bytes(torn)
    outcome = slimrl("score", "--custom-rm-path", "rewards.py:score", *FILES, "--json")
    assert outcome.code == 0
    assert (folder / "out.jsonl").read_bytes().startswith(done)
    assert [row["index"] for row in read(folder)] == list(range(60))
    summary = json.loads(outcome.stdout)
    assert (summary["kept_lines"], summary["lines"]) == (done.count(b"\n"), 60)
    assert summary["counts"]["scored"] == 60


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(folder: Path) -> None:
    with start(folder, 300) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    rows = read(folder)
    assert 3 <= len(rows) < 300
    assert f"stopped; {len(rows)} of 300 lines are done" in stderr
    assert "slimrl score --custom-rm-path rewards.py:score --input in.jsonl" in stderr
    assert "Traceback" not in stderr


def test_a_finished_file_is_not_scored_again(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": "4", "label": "4"}] * 3)
    assert slimrl("score", "--rm-type", "random", *FILES).code == 0
    before = (folder / "out.jsonl").read_bytes()
    outcome = slimrl("score", "--rm-type", "random", *FILES, "--json")
    assert (outcome.code, json.loads(outcome.stdout)["kept_lines"]) == (0, 3)
    assert (folder / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", ["input", "reward", "key", "foreign", "spoilt"])
def test_an_output_that_belongs_to_something_else_is_refused_untouched(slimrl: Run, folder: Path, change: str) -> None:
    write(folder, [{"response": "4", "label": "4"}] * 3)
    flags = ["--custom-rm-path", "rewards.py:parts"]
    assert slimrl("score", *flags, *FILES).code == 0
    out = folder / "out.jsonl"
    said = "was made from another "
    match change:
        case "input":
            write(folder, [{"response": "5", "label": "4"}] * 3)
        case "reward":
            flags = ["--rm-type", "f1"]
        case "key":
            flags += ["--reward-key", "right"]
        case "foreign":
            (folder / ".out.jsonl.source.json").unlink()
            said = "is not the beginning of these outcomes"
        case "spoilt":
            out.write_text('{"index": 1}\n')
            said = "out.jsonl:1 is not the outcome of index 0"
    before = out.read_bytes()
    outcome = slimrl("score", *flags, *FILES)
    assert outcome.code == 2
    assert said in outcome.stderr
    assert out.read_bytes() == before


def test_two_commands_do_not_write_one_file(slimrl: Run, folder: Path) -> None:
    with start(folder, 100) as process:
        outcome = slimrl("score", "--custom-rm-path", "rewards.py:score", *FILES)
        process.kill()
    assert outcome.code == 2
    assert "another slimrl score is writing it" in outcome.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://ada:secret@judge/", "--rm-url URL --json"),
        ("http://judge/?key=secret", "--rm-url URL --json"),
        ("http://judge/?secret", "--rm-url URL --json"),
        ("http://ada:secret@judge/?key=${KEY}", "--rm-url URL --json"),
        ("http://[secret", "--rm-url URL --json"),
        ("http://judge/score", "--rm-url http://judge/score --json"),
        ("http://judge/?key=${KEY}", "--rm-url 'http://judge/?key=${KEY}' --json"),
    ],
)
def test_the_command_that_goes_on_has_no_secret_in_it(url: str, shown: str) -> None:
    assert shown_command(["--rm-url", url, "--json"], url) == shown
    assert "secret" not in shown_command([f"--rm-url={url}"], url)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_file(folder: Path) -> None:
    code = (
        "import re, sys\nfrom slimrl.cli.main import main\nassert main(sys.argv[1:]) == 0\n"
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )

    def peak_mb(num_lines: int) -> int:
        write(folder, [{"response": f"{i} " + "word " * 400, "label": "word"} for i in range(num_lines)])
        (folder / "out.jsonl").unlink(missing_ok=True)
        words = ["score", "--custom-rm-path", "rewards.py:length", *FILES, "--json"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=folder, capture_output=True, text=True, check=True
        )
        return int(done.stdout.splitlines()[-1])

    small, large = peak_mb(500), peak_mb(10_000)  # 1 MB and 20 MB of text
    assert large - small < 12


def test_the_command_costs_little_beside_the_reward(slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": f"the answer is {i % 7}", "label": str(i % 5)} for i in range(5_000)])
    outcome = slimrl("score", "--rm-type", "f1", *FILES, "--json")
    assert outcome.code == 0
    assert outcome.cpu_s < 2 + 5_000 * 0.4e-3


@given(st.lists(st.sampled_from(["--rm-type", "--reward", "--json", "--no-json", "--rm-workers", "x", "1", "", "--"])))
def test_any_command_line_is_read_or_refused(words: list[str]) -> None:
    try:
        flags, _ = read_flags(words, ScoreFlags)
    except ConfigError as error:
        assert error.problems
    else:
        assert len(flags.reward) <= len(words)


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("score", "--rm-type", "math", *FILES), 2),
        (("score", "--rm-type", "f1", "--reward", "dapo", *FILES), 0),
        (("check", "math"), 2),
    ],
)
def test_an_option_of_another_reward_is_refused(command: tuple[str, ...], code: int, slimrl: Run, folder: Path) -> None:
    write(folder, [{"response": "7", "label": "7"}])
    outcome = slimrl(*command, "--no-dapo-strict-box-verify")
    assert outcome.code == code, outcome.stderr
    assert outcome.stderr.startswith("error: --no-dapo-strict-box-verify has no effect: it is of plugin ") == (
        code == 2
    )
