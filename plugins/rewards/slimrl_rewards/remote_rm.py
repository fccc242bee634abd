"""Reward `remote_rm`: a reward model behind HTTP gives the score; what keeps it from answering is the reason.

A request is POST {prompt, response, label, metadata} as JSON to --rm-url, an answer is a JSON number or object. The
client is in `remote_judge`, imported where scoring happens.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit, urlunsplit

from slimrl import Factory, PluginOptions, Reward, RewardValue, Sample, UsageError, hookimpl, reward_traits
from slimrl.config import RolloutConfig

if TYPE_CHECKING:
    from slimrl_rewards.remote_judge import RemoteJudge

TIMEOUT_S: Final = 120.0
VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class RemoteRmOptions:
    """The reward `remote_rm`: how the server at --rm-url is asked."""

    remote_rm_concurrency: int = 64
    """Requests in flight at once at most, in each process that scores."""
    remote_rm_retries: int = 10
    """Times a request is repeated after a failed connection, 429 or 5xx; any other refusal is final."""
    remote_rm_backoff_s: float = 1.0
    """Seconds before the first repetition, doubled each time up to 30, of which a random part is waited."""
    remote_rm_batch_size: int = 1
    """Samples in one request; above 1 the request is a list of objects, the answer a list of that length."""
    remote_rm_batch_linger_s: float = 0.02
    """Seconds that an incomplete batch waits for more samples."""


@dataclass(frozen=True)
class JudgeUrl:
    """Where the server is, apart from what must not be shown."""

    address: str
    """Scheme, host, port and path: what messages call it."""
    query: str
    credentials: tuple[str, str] | None
    """User and password."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that no message may repeat, the longest first."""
        values = {self.query, *(self.credentials or ())}
        values.add(base64.b64encode(":".join(self.credentials or ()).encode()).decode())  # as HTTP sends them
        for part in self.query.split("&"):
            values |= {part.partition("=")[2], unquote(part.partition("=")[2])}
        return tuple(sorted((value for value in values if len(value) > 2), key=len, reverse=True))


def read_url(text: str) -> JudgeUrl:
    """The parts of --rm-url with ${NAME} read from the environment; UsageError, which repeats no secret."""
    missing = [name for name in VARIABLE.findall(text) if name not in os.environ]
    if missing:
        raise UsageError(f"--rm-url: the environment has no variable {missing[0]}")
    expanded = VARIABLE.sub(lambda match: os.environ[match[1]], text.strip())
    try:
        parts = urlsplit(expanded)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError("--rm-url is not a URL; expected http://HOST[:PORT]/PATH") from None
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or not c.isprintable() for c in expanded):
        raise UsageError("--rm-url is not an address of a web server; expected http://HOST[:PORT]/PATH")
    netloc = f"[{host}]" if ":" in host else host
    netloc += "" if port is None else f":{port}"
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return JudgeUrl(
        address=urlunsplit((parts.scheme, netloc, parts.path or "/", "", "")),
        query=parts.query,
        credentials=(user, password) if user or password else None,
    )


def make(options: PluginOptions) -> Reward:
    """The reward; UsageError when --rm-url is missing or an option is out of range."""
    rollout, remote = options[RolloutConfig], options[RemoteRmOptions]
    url, deadline_s = rollout.rm_url, rollout.rm_timeout or TIMEOUT_S
    if url is None:
        raise UsageError("remote_rm needs --rm-url: the address that samples are posted to")
    for flag, value, lowest in (
        ("--remote-rm-concurrency", remote.remote_rm_concurrency, 1),
        ("--remote-rm-retries", remote.remote_rm_retries, 0),
        ("--remote-rm-backoff-s", remote.remote_rm_backoff_s, 0),
        ("--remote-rm-batch-size", remote.remote_rm_batch_size, 1),
        ("--remote-rm-batch-linger-s", remote.remote_rm_batch_linger_s, 0),
    ):
        if not value >= lowest:
            raise UsageError(f"{flag} must be {lowest} or more; got {value}")
    # A little before the scorer's own deadline: the outcome then says what the server's last failure was.
    judge = _open_judge(read_url(url), remote, deadline_s - min(1.0, 0.05 * deadline_s))

    @reward_traits(timeout_s=TIMEOUT_S)
    async def score(sample: Sample) -> RewardValue:
        answer: RewardValue = await judge.ask(
            {
                "prompt": sample.prompt,
                "response": sample.response,
                "label": sample.label,
                "metadata": sample.metadata,
            }
        )
        return answer

    return score


@hookimpl
def slimrl_offer_rewards() -> Mapping[str, Factory[Reward]]:
    """Offers `remote_rm`."""
    return {"remote_rm": make}


@hookimpl
def slimrl_options() -> Sequence[type]:
    """The flags of `remote_rm`."""
    return [RemoteRmOptions]


def _open_judge(url: JudgeUrl, options: RemoteRmOptions, timeout_s: float) -> RemoteJudge:
    # Imported here and not above: whoever only lists the plugins needs no HTTP client.
    from slimrl_rewards.remote_judge import JudgeSettings, RemoteJudge

    return RemoteJudge(
        JudgeSettings(
            address=url.address,
            query=url.query,
            credentials=url.credentials,
            secrets=url.secrets,
            timeout_s=timeout_s,
            concurrency=options.remote_rm_concurrency,
            retries=options.remote_rm_retries,
            backoff_s=options.remote_rm_backoff_s,
            batch_size=options.remote_rm_batch_size,
            linger_s=options.remote_rm_batch_linger_s,
        )
    )
