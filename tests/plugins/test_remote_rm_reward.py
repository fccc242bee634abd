"""remote_rm against a real server on loopback that answers, fails and stalls as it is told."""

from __future__ import annotations

import asyncio
import email.utils
import gc
import json
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from slimrl import Group, RewardError, Sample, Status, UsageError, registry
from slimrl.config import RolloutConfig
from slimrl.errors import PluginError
from slimrl.registry import Options, RewardReferences, resolve_rewards
from slimrl.scoring import Scorer
from slimrl.scoring.settings import ScoringSettings
from slimrl.traits import traits_of
from slimrl_rewards.remote_judge import retry_after_s
from slimrl_rewards.remote_rm import RemoteRmOptions, make, read_url

Handler = Callable[[Request], Awaitable[Response]]


class Judge:
    """A server whose answers are a list of responses (the last one is repeated) or a function of the request."""

    def __init__(self, *answers: Response | Handler) -> None:
        self.answers = list(answers)
        self.bodies: list[Any] = []
        self.requests: list[Request] = []
        self.running = self.most_running = 0
        self.url = ""

    async def handle(self, request: Request) -> Response:
        self.requests.append(request)
        self.bodies.append(json.loads(await request.body()))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            return answer if isinstance(answer, Response) else await answer(request)
        finally:
            self.running -= 1


Start = Callable[..., Judge]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that run until the test ends."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(*answers: Response | Handler) -> Judge:
        judge = Judge(*answers)
        app = Starlette(routes=[Route("/{path:path}", judge.handle, methods=["GET", "POST"])])
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread))
        while not server.started:
            time.sleep(0.01)
        judge.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        return judge

    yield start
    for server, thread in running:
        server.should_exit = server.force_exit = True
        thread.join()


def sample(response: str = "4", i: int = 0, **fields: Any) -> Sample:
    return Sample(0, i, i, fields.pop("prompt", "2 + 2?"), [], response=response, status=Status.COMPLETED, **fields)


def ask(url: str, *samples: Sample, **options: Any) -> list[Any]:
    """What the reward returned, or raised, for each sample asked at once."""
    options = {"remote_rm_backoff_s": 0.02, **options}
    reward = make(Options([RolloutConfig(rm_url=url), RemoteRmOptions(**options)]))

    async def go() -> list[Any]:
        return await asyncio.gather(*(reward(one) for one in samples or [sample()]), return_exceptions=True)

    found = asyncio.run(go())
    gc.collect()  # a connection that was left open would warn now
    return found


def reason(url: str, **options: Any) -> str:
    (found,) = ask(url, **options)
    assert isinstance(found, RewardError), found
    return str(found)


def test_the_server_gets_prompt_response_label_and_metadata(start: Start) -> None:
    judge = start(JSONResponse(0.75))
    chat = [{"role": "user", "content": "2 + 2?"}]
    assert ask(judge.url + "/score", sample("4 \ud800", prompt=chat, label=[4], metadata={"level": 2})) == [0.75]
    assert judge.bodies == [{"prompt": chat, "response": "4 \ud800", "label": [4], "metadata": {"level": 2}}]
    assert (judge.requests[0].method, judge.requests[0].url.path) == ("POST", "/score")
    assert judge.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize("answer", [1, 0.5, True, None, {"score": 1.0, "style": 0.25}])
def test_what_the_server_answers_is_what_the_reward_returns(start: Start, answer: Any) -> None:
    assert ask(start(JSONResponse(answer)).url) == [answer]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(start: Start, status: int) -> None:
    judge = start(Response(status_code=status), Response(status_code=status), JSONResponse(1))
    assert ask(judge.url) == [1]
    assert len(judge.bodies) == 3
    assert judge.bodies[0] == judge.bodies[2]


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_is_final_and_says_what_the_server_said(start: Start, status: int) -> None:
    judge = start(Response("no such model", status))
    assert reason(judge.url).endswith(f"refused with HTTP {status}: no such model")
    assert len(judge.bodies) == 1


def test_a_redirect_is_not_followed(start: Start) -> None:
    judge = start(RedirectResponse("http://127.0.0.1:1/"))
    assert "refused with HTTP 307" in reason(judge.url)
    assert len(judge.bodies) == 1


def test_retries_end_and_the_last_reason_is_given(start: Start) -> None:
    judge = start(Response("out of memory", 500))
    assert reason(judge.url, remote_rm_retries=2).endswith("failed 3 times, at last: HTTP 500: out of memory")
    assert len(judge.bodies) == 3


def test_a_server_that_is_not_there_is_tried_again_and_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/score"
    said = reason(url, remote_rm_retries=1)
    assert said.startswith(f"{url} failed 2 times")
    assert "ClientConnectorError" in said


async def hang_up(request: Request) -> Response:
    # more is promised than comes: the connection breaks in the middle of the answer
    return Response(b"0.", headers={"content-length": "100"})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_connection_that_breaks_in_an_answer_is_tried_again(start: Start) -> None:
    assert ask(start(hang_up, JSONResponse(1)).url) == [1]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for(start: Start, form: str) -> None:
    told = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    judge = start(Response(status_code=429, headers={"retry-after": told}), JSONResponse(1))
    started = time.monotonic()
    assert ask(judge.url) == [1]
    assert 0.9 < time.monotonic() - started < 10


def test_a_wait_past_the_deadline_is_not_begun(start: Start) -> None:
    judge = start(Response(status_code=503, headers={"retry-after": "3600"}))
    started = time.monotonic()
    assert "asked again in 3600 s, which is past the deadline" in reason(judge.url)
    assert time.monotonic() - started < 5


@given(st.text(max_size=40) | st.floats().map(str) | st.integers().map(str))
def test_any_retry_after_header_is_a_wait_or_nothing(header: str) -> None:
    seconds = retry_after_s(header)
    assert seconds is None or 0 <= seconds < float("inf")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Response(b"<html>hello"), "answered what is not JSON: <html>hello"),
        (Response(b""), "answered what is not JSON: no message"),
        (Response(b"\xff\xfe\x00"), "answered what is not JSON"),
        (Response(b"[" * 100_000), "answered what is not JSON"),
        (Response(b"9" * 100_000), "answered what is not JSON"),
        (Response(b" " * (2 << 20)), "answered more than 1,048,576 bytes"),
    ],
)
def test_an_answer_that_is_none_is_an_error(start: Start, answer: Response, said: str) -> None:
    assert said in reason(start(answer).url)


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}, {"x": {1, 2}}])
def test_a_sample_that_json_has_no_word_for_is_an_error(start: Start, metadata: dict[str, Any]) -> None:
    (found,) = ask(start(JSONResponse(1)).url, sample(metadata=metadata))
    assert isinstance(found, RewardError)
    assert "cannot be written as JSON" in str(found)


async def slowly(request: Request) -> Response:
    await asyncio.sleep(0.05)
    return JSONResponse(1)


def test_no_more_requests_are_in_flight_than_allowed(start: Start) -> None:
    judge = start(slowly)
    assert ask(judge.url, *(sample(i=i) for i in range(20)), remote_rm_concurrency=4) == [1] * 20
    assert judge.most_running == 4


def test_requests_go_out_together(start: Start) -> None:
    judge = start(slowly)
    assert ask(judge.url, *(sample(i=i) for i in range(60))) == [1] * 60
    assert judge.most_running > 10


async def lengths(request: Request) -> Response:
    return JSONResponse([len(one["response"]) for one in json.loads(await request.body())])


def test_batches_are_lists_and_answers_come_back_to_their_own_samples(start: Start) -> None:
    judge = start(lengths)
    samples = [sample("x" * i, i) for i in range(10)]
    assert ask(judge.url, *samples, remote_rm_batch_size=4) == list(range(10))
    assert [len(body) for body in judge.bodies] == [4, 4, 2]


def test_a_batch_of_one_is_a_list_too(start: Start) -> None:
    judge = start(lengths)
    assert ask(judge.url, remote_rm_batch_size=8) == [1]
    assert isinstance(judge.bodies[0], list)


@pytest.mark.parametrize(("answer", "got"), [([1, 2], "a list of 2"), (1, "int"), ({"score": 1}, "dict")])
def test_a_batch_that_is_answered_wrongly_is_an_error_of_its_samples(start: Start, answer: Any, got: str) -> None:
    found = ask(start(JSONResponse(answer)).url, *(sample(i=i) for i in range(3)), remote_rm_batch_size=3)
    assert {str(error).partition(" answered ")[2] for error in found} == {f"{got} to a batch of 3 samples"}


def test_one_odd_answer_in_a_batch_is_its_own_samples_alone(start: Start) -> None:
    judge = start(JSONResponse([1, "good", None]))
    assert ask(judge.url, *(sample(i=i) for i in range(3)), remote_rm_batch_size=3) == [1, "good", None]


def test_a_caller_that_leaves_does_not_cost_the_others_of_its_batch(start: Start) -> None:
    async def late(request: Request) -> Response:
        await asyncio.sleep(0.3)
        return await lengths(request)

    judge = start(late)
    options = RemoteRmOptions(remote_rm_batch_size=2)
    reward = make(Options([RolloutConfig(rm_url=judge.url), options]))

    async def go() -> Any:
        leaving, staying = (asyncio.ensure_future(reward(sample("x" * i, i))) for i in (1, 2))
        await asyncio.sleep(0.1)
        leaving.cancel()
        return await staying

    assert asyncio.run(go()) == 2


def test_a_second_event_loop_gets_connections_of_its_own(start: Start) -> None:
    judge = start(JSONResponse(1))
    reward = make(Options([RolloutConfig(rm_url=judge.url), RemoteRmOptions()]))
    assert [asyncio.run(reward(sample())), asyncio.run(reward(sample()))] == [1, 1]


SECRET = "s3cret-t0ken"


@pytest.mark.parametrize("kind", ["status", "refusal", "connection", "text", "echo"])
def test_no_secret_of_the_url_reaches_a_message_or_a_log(
    start: Start, kind: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    async def echo(request: Request) -> Response:
        return Response(f"cannot serve {request.url} {request.headers['authorization']} {SECRET}", 400)

    answers: dict[str, Response | Handler] = {
        "status": Response(status_code=503),
        "refusal": Response("no", 403),
        "connection": hang_up,
        "text": Response("hello"),
        "echo": echo,
    }
    judge = start(answers[kind])
    host = judge.url.removeprefix("http://")
    caplog.set_level(logging.DEBUG)
    said = reason(f"http://ada:{SECRET}@{host}/score?key={SECRET}&x=%73econd", remote_rm_retries=1)
    request = judge.requests[0]
    assert dict(request.query_params) == {"key": SECRET, "x": "second"}
    assert request.headers["authorization"].startswith("Basic ")
    ours = "\n".join(r.getMessage() for r in caplog.records if not r.name.startswith(("uvicorn", "asyncio")))
    written = said + ours + "".join(capfd.readouterr())
    assert SECRET not in written
    assert "second" not in written
    assert request.headers["authorization"].removeprefix("Basic ") not in written
    assert host in said


def test_a_variable_in_the_url_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    url = read_url("https://judge.example:8443/score?key=${JUDGE_KEY}")
    assert (url.address, url.query) == ("https://judge.example:8443/score", f"key={SECRET}")
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(UsageError, match="the environment has no variable JUDGE_KEY"):
        read_url("https://judge.example/score?key=${JUDGE_KEY}")


@pytest.mark.parametrize("url", ["", "judge:80/score", "ftp://host/x", "http://", "http://h:99999/", "http://a b/"])
def test_what_is_no_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UsageError, match=r"--rm-url is not .*; expected http://HOST") as caught:
        read_url(url)
    assert url in ("", "http://") or url not in str(caught.value)


def resolved_options(**rollout: Any) -> tuple[registry.RewardTable, Options]:
    plugins = registry.load(["reward-remote-rm"], warn=False)
    options = Options([RolloutConfig(**rollout)]).with_defaults(plugins.catalogue.option_types)
    return resolve_rewards(plugins, RewardReferences.one("remote_rm", reward_key=rollout.get("reward_key"))), options


def test_without_a_url_it_cannot_be_made() -> None:
    table, options = resolved_options()
    with pytest.raises(PluginError, match="remote_rm needs --rm-url"):
        table.default[0].resolved.make(options)


@pytest.mark.parametrize(
    ("option", "value"),
    [("remote_rm_concurrency", 0), ("remote_rm_retries", -1), ("remote_rm_batch_size", 0), ("remote_rm_backoff_s", -1)],
)
def test_an_option_out_of_range_is_refused_by_its_flag(option: str, value: int) -> None:
    flag = "--" + option.replace("_", "-")
    with pytest.raises(UsageError, match=f"{flag} must be . or more; got {value}"):
        make(Options([RolloutConfig(rm_url="http://h/"), RemoteRmOptions(**{option: value})]))


def test_it_says_that_it_needs_more_time() -> None:
    table, options = resolved_options(rm_url="http://127.0.0.1:1/")
    assert traits_of(table.default[0].resolved.make(options)).timeout_s == 120


def test_through_the_scorer_every_end_is_an_outcome(start: Start, tmp_path: Path) -> None:
    async def judged(request: Request) -> Response:
        match json.loads(await request.body())["response"]:
            case "none":
                return JSONResponse(None)
            case "text":
                return JSONResponse("good")
            case "refuse":
                return Response("no", 400)
            case "hang":
                await asyncio.sleep(30)
        return JSONResponse({"score": 0.5, "style": 1})

    judge = start(judged)
    table, options = resolved_options(rm_url=judge.url, reward_key="score")

    async def go() -> list[tuple[str, float | None]]:
        async with Scorer(table, options, ScoringSettings(num_workers=1, timeout_s=3)) as scorer:
            group = Group(0, [sample(r, i) for i, r in enumerate(["4", "none", "text", "refuse", "hang"])])
            await scorer.score(group)
            return [(s.score.status, s.score.value) for s in group if s.score]

    assert asyncio.run(go()) == [
        ("scored", 0.5),
        ("abstained", None),
        ("error", None),
        ("error", None),
        ("timeout", None),
    ]
