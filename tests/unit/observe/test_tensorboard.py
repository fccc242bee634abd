"""What TensorBoard reads back from a run's event files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from slimrl.observe.trackers.tensorboard import TensorBoardTracker

READ = """
import sys, warnings
warnings.simplefilter("ignore")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1]).Reload()
print({tag: [(e.step, round(e.value, 3)) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]})
"""


def read(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_resumed_run_replaces_the_steps_that_it_does_again(tmp_path: Path) -> None:
    first = TensorBoardTracker(tmp_path, purge_step=0)
    for step in range(4):
        first.log(step, {"train/loss": step / 2, "rollout/reward_mean": 0.25})
    first.close()
    second = TensorBoardTracker(tmp_path, purge_step=2)
    second.log(2, {"train/loss": 9.0})
    second.close()
    assert read(tmp_path) == (
        "{'train/loss': [(0, 0.0), (1, 0.5), (2, 9.0)], 'rollout/reward_mean': [(0, 0.25), (1, 0.25)]}"
    )


def test_the_tracker_brings_no_torch() -> None:
    code = (
        "import sys, tempfile\nfrom slimrl.observe.trackers.tensorboard import TensorBoardTracker\n"
        "from pathlib import Path\nwith tempfile.TemporaryDirectory() as folder:\n"
        "    tracker = TensorBoardTracker(Path(folder), 1)\n    tracker.log(1, {'a/b': 1.0})\n    tracker.close()\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
