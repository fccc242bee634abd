"""What commands check of the reward flags that they share with training."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from slimrl.config.rm_url import REMOTE_RM
from slimrl.errors import ConfigError
from slimrl.registry import RewardTable


def check_scoring(rm_timeout: float | None, rm_workers: int | None) -> Iterator[str]:
    """What is wrong with the flags of the scorer."""
    if rm_timeout is not None and not 0 < rm_timeout < math.inf:
        yield f"--rm-timeout must be above 0; got {rm_timeout:g}"
    if rm_workers is not None and rm_workers < 1:
        yield f"--rm-workers must be 1 or more; got {rm_workers}"


def check_rm_url(rm_url: str | None, rewards: RewardTable) -> None:
    """Raise ConfigError where nothing reads --rm-url: neither remote_rm nor a function of the user's."""
    resolved = [component.resolved for component in rewards.components()]
    if rm_url is not None and not any(one.entry_point is None or one.name.endswith(REMOTE_RM) for one in resolved):
        raise ConfigError(f"--rm-url has no effect without {REMOTE_RM}")


def shown_command(words: Sequence[str], rm_url: str | None) -> str:
    """A command line to be typed again; what may be a secret in --rm-url is left out of it."""
    if rm_url is not None and may_hold_secret(rm_url):
        words = [word.replace(rm_url, "URL") for word in words]
    return shlex.join(words)


def may_hold_secret(url: str) -> bool:
    """Whether a URL has a user, a password or a query, other than as the name of a variable."""
    try:
        parts = urlsplit(re.sub(r"\$\{\w+\}", "", url))  # a variable's name is none
    except ValueError:
        return True
    if parts.username or parts.password:
        return True
    return any(
        value or not equals for _, equals, value in (one.partition("=") for one in parts.query.split("&") if one)
    )
