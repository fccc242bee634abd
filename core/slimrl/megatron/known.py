"""What models say of a batch before it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Known:
    """What models say of a batch's response tokens before the first optimizer step, each [response tokens].

    Log-probs are natural. Zeros where nothing asked for a token's, None where nothing asked for any.
    """

    log_probs: NDArray[np.float32] | None = None
    """Of the policy."""
    ref_log_probs: NDArray[np.float32] | None = None
    teacher_log_probs: NDArray[np.float32] | None = None
    values: NDArray[np.float32] | None = None
    """Of the critic."""
