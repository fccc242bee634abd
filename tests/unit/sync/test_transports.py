"""Weights that a transport sent are the weights that answer; a failure leaves the engine running."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import http.server
import json
import math
import os
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from slimrl.engines.client import HttpEngineClient
from slimrl.engines.process import EngineProcess, EngineSettings, embedded_command
from slimrl.errors import EngineError, EngineUnreachableError
from slimrl.protocols import WeightTransport
from slimrl.sync import open_fleet
from slimrl.sync.disk import DiskWay, write_checkpoint
from slimrl.sync.fleet import Fleet, Way
from slimrl.sync.tensor import SHARED_MEMORY, SharedFile, SharedMemoryWay
from slimrl.sync.update import UpdatePause
from slimrl.types import Completion, SamplingParams

Weights = dict[str, torch.Tensor]


def complete(url: str) -> Completion:
    async def run() -> Completion:
        async with HttpEngineClient(url) as client:
            return await client.generate([1, 2, 3], SamplingParams(4, temperature=0.0))

    return asyncio.run(run())


def first_log_prob(folder: Path, weights: Weights) -> float:
    """The log-prob of the likeliest next token, by transformers."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model.load_state_dict(weights)
    with torch.inference_mode():
        return float(torch.log_softmax(model(torch.tensor([[1, 2, 3]])).logits[0, -1], -1).max())


def random_weights(checkpoint: Path, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
    }


def leftovers() -> set[Path]:
    """Files that no sender holds any more."""
    found = set()
    for path in SHARED_MEMORY.glob("slimrl-weights-*"):
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.add(path)
    return found


@pytest.fixture(params=["one bucket", "many buckets", "disk"])
def transport(request: pytest.FixtureRequest, engine_url: str, tiny_checkpoint: Path, tmp_path: Path) -> object:
    if request.param == "disk":
        return Fleet([engine_url], DiskWay(tmp_path / "weights", tiny_checkpoint))
    return Fleet([engine_url], SharedMemoryWay(bucket_bytes=10_000 if request.param == "many buckets" else 1 << 20))


def test_published_weights_answer_under_their_version(
    transport: WeightTransport, engine_url: str, tiny_checkpoint: Path
) -> None:
    before = leftovers()
    for version in (3, 4):
        weights = random_weights(tiny_checkpoint, seed=version)
        transport.publish(weights.items(), version)
        completion = complete(engine_url)
        assert completion.log_probs[0] == pytest.approx(first_log_prob(tiny_checkpoint, weights), abs=1e-5)
        assert set(completion.weight_versions) == {version}
    assert leftovers() <= before


def test_weights_in_another_number_format_are_converted(engine_url: str, tiny_checkpoint: Path) -> None:
    weights = {name: tensor.bfloat16() for name, tensor in random_weights(tiny_checkpoint, seed=1).items()}
    Fleet([engine_url], SharedMemoryWay()).publish(weights.items(), 6)
    expected = first_log_prob(tiny_checkpoint, {name: tensor.float() for name, tensor in weights.items()})
    assert complete(engine_url).log_probs[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["name", "shape"])
def test_a_bad_tensor_leaves_the_old_weights_serving(engine_url: str, tiny_checkpoint: Path, kind: str) -> None:
    Fleet([engine_url], SharedMemoryWay()).publish(random_weights(tiny_checkpoint, seed=2).items(), 7)
    old = complete(engine_url)
    bad = random_weights(tiny_checkpoint, seed=3)
    if kind == "name":
        bad["model.norm.wait"] = bad["model.norm.weight"]
    else:
        bad["model.norm.weight"] = torch.ones(3)
    before = leftovers()
    with pytest.raises(EngineError, match=rf"weight version 8 did not reach the engine at {engine_url}: .*norm"):
        Fleet([engine_url], SharedMemoryWay()).publish(bad.items(), 8)
    assert leftovers() <= before
    assert complete(engine_url).log_probs == old.log_probs
    assert set(complete(engine_url).weight_versions) == {7}


def test_a_trainer_that_fails_while_it_sends_lets_the_engine_go_on(engine_url: str, tiny_checkpoint: Path) -> None:
    def broken() -> Iterator[tuple[str, torch.Tensor]]:
        yield "model.norm.weight", torch.ones(64)
        raise RuntimeError("the trainer broke")

    before = leftovers()
    with pytest.raises(RuntimeError, match="the trainer broke"):
        Fleet([engine_url], SharedMemoryWay()).publish(broken(), 9)
    assert leftovers() <= before
    assert len(complete(engine_url).tokens) > 0


def test_disk_keeps_the_latest_checkpoint_alone_and_removes_a_refused_one(
    engine_url: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "weights"
    for left_by_a_killed_run in ("weight_v000007", ".weight_v000008.unfinished"):
        (folder / left_by_a_killed_run).mkdir(parents=True)
    transport = Fleet([engine_url], DiskWay(folder, tiny_checkpoint))
    for version in (1, 2):
        transport.publish(random_weights(tiny_checkpoint, seed=version).items(), version)
    assert [path.name for path in folder.iterdir()] == ["weight_v000002"]
    with pytest.raises(EngineError, match="weight version 3"):
        transport.publish([("model.norm.weight", torch.ones(3))], 3)
    assert [path.name for path in folder.iterdir()] == ["weight_v000002"]
    assert set(complete(engine_url).weight_versions) == {2}


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    transport = Fleet(["http://127.0.0.1:1"], DiskWay(tmp_path / "file" / "weights", tiny_checkpoint))
    with pytest.raises(EngineError, match=r"weight version 1 could not be written to .*file/weights/weight_v000001"):
        transport.publish([], 1)


def test_an_engine_that_is_gone_is_an_error_that_names_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(tiny_checkpoint / "model.safetensors")
    ways: list[Way] = [SharedMemoryWay(retry_s=0.1), DiskWay(tmp_path / "weights", tiny_checkpoint, retry_s=0.1)]
    for way in ways:
        gone = r"weight version 1 did not reach the engine at http://127\.0\.0\.1:1"
        with pytest.raises(EngineUnreachableError, match=gone):
            Fleet(["http://127.0.0.1:1"], way).publish(weights.items(), 1)


def test_an_external_engine_gets_files_and_our_own_shared_memory(tmp_path: Path) -> None:
    def kind(external: bool) -> type:
        return type(open_fleet(["http://x"], external=external, scratch=tmp_path, hf_checkpoint=tmp_path)._way)

    assert kind(True) is DiskWay
    assert kind(False) is SharedMemoryWay


@pytest.mark.parametrize("kind", ["shared memory", "disk"])
def test_an_engine_that_is_gone_is_left_out_until_it_is_given_the_weights_by_itself(
    engine_url: str, tiny_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    way = DiskWay(tmp_path, tiny_checkpoint, retry_s=0.1) if kind == "disk" else SharedMemoryWay(retry_s=0.1)
    fleet = Fleet(["http://127.0.0.1:1", engine_url], way)
    weights = random_weights(tiny_checkpoint, seed=11)
    fleet.publish(weights.items(), 11)
    assert list(fleet.left_out) == [0]
    assert "weight version 11 did not reach the engine at http://127.0.0.1:1" in fleet.left_out[0]
    assert set(complete(engine_url).weight_versions) == {11}
    with pytest.raises(EngineUnreachableError):
        fleet.send_to(0, "http://127.0.0.1:1", weights.items(), 11)
    assert list(fleet.left_out) == [0]
    fleet.send_to(0, engine_url, weights.items(), 11)
    assert fleet.left_out == {}


def test_several_engines_take_each_bucket_and_one_that_dies_does_not_hold_up_the_rest(
    engine_url: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    settings = EngineSettings(tiny_checkpoint, device="cpu", dtype="float32", num_threads=1)
    with EngineProcess(embedded_command(settings), tmp_path / "engine.log") as process:
        second_url = process.start()
        fleet = Fleet([engine_url, second_url], SharedMemoryWay(bucket_bytes=10_000))
        weights = random_weights(tiny_checkpoint, seed=12)
        fleet.publish(weights.items(), 12)
        assert fleet.left_out == {}
        assert complete(engine_url).log_probs == complete(second_url).log_probs
        assert set(complete(second_url).weight_versions) == {12}
        process.stop(grace_s=0.0)
        fleet.publish(weights.items(), 13)
        assert list(fleet.left_out) == [1]
        assert set(complete(engine_url).weight_versions) == {13}


def test_an_engine_with_a_part_of_the_weights_stands_still_until_it_has_all(
    engine_url: str, tiny_checkpoint: Path
) -> None:
    calls: list[str] = []
    num_buckets = 2  # it takes so many, then refuses one

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            calls.append(self.path)
            self.answer(400 if calls.count("/update_weights_from_tensor") > num_buckets else 200)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args: object) -> None:
            pass

    weights = random_weights(tiny_checkpoint, seed=13)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        fleet = Fleet([url, engine_url], SharedMemoryWay(bucket_bytes=10_000))
        fleet.publish(weights.items(), 21)
        assert "refused POST /update_weights_from_tensor" in fleet.left_out[0]
        assert set(complete(engine_url).weight_versions) == {21}
        assert calls[0] == "/pause_generation"
        assert "/continue_generation" not in calls
        num_buckets = 1000
        calls.clear()
        fleet.send_to(0, url, weights.items(), 21)
        assert calls[-1] == "/continue_generation"
        assert fleet.left_out == {}
        server.shutdown()


def read_bucket(description: str) -> Weights:
    """A slow reader of one bucket."""
    bucket = json.loads(description)
    content = Path(bucket["path"]).read_bytes()
    found = {}
    for entry in bucket["tensors"]:
        dtype = getattr(torch, entry["dtype"])
        num_bytes = math.prod(entry["shape"]) * dtype.itemsize
        piece = bytearray(content[entry["offset"] : entry["offset"] + num_bytes])
        flat = torch.frombuffer(piece, dtype=dtype) if piece else torch.empty(0, dtype=dtype)
        found[entry["name"]] = flat.reshape(entry["shape"])
    return found


@settings(deadline=None, max_examples=40)
@given(
    shapes=st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=8),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    bucket_bytes=st.integers(1, 2000),
)
def test_buckets_hold_every_tensor_once_and_stay_within_their_size(
    shapes: list[list[int]], dtype: torch.dtype, bucket_bytes: int
) -> None:
    weights = {f"w{i}": torch.randn(shape).to(dtype) for i, shape in enumerate(shapes)}
    found: Weights = {}
    with SharedFile(bucket_bytes) as file:
        for description in file.buckets(weights.items()):
            tensors = read_bucket(description)
            ends = [entry["offset"] for entry in json.loads(description)["tensors"]]
            assert len(tensors) == 1 or ends[-1] <= bucket_bytes
            assert not found.keys() & tensors.keys()
            found |= tensors
        path = Path(json.loads(description)["path"])
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_view_of_a_larger_weight_is_written_as_it_reads() -> None:
    fused = torch.arange(24.0).reshape(4, 6)
    weights = {"rows": fused[1:3], "columns": fused[:, ::2], "turned": fused.T}
    with SharedFile(1 << 20) as file:
        (description,) = file.buckets(weights.items())
        found = read_bucket(description)
    assert all(torch.equal(found[name], weights[name]) for name in weights)


def test_a_memory_file_system_that_is_missing_is_replaced_by_the_temporary_folder(tmp_path: Path) -> None:
    with SharedFile(100, folder=tmp_path / "absent") as file:
        (description,) = file.buckets([("w", torch.ones(4))])
        assert torch.equal(read_bucket(description)["w"], torch.ones(4))


def test_files_of_killed_senders_are_removed_and_those_in_use_are_not(tmp_path: Path) -> None:
    abandoned, fresh = tmp_path / "slimrl-weights-abandoned", tmp_path / "slimrl-weights-fresh"
    abandoned.write_bytes(b"x")
    fresh.write_bytes(b"x")
    with SharedFile(100, folder=tmp_path) as other:
        (description,) = other.buckets([("w", torch.ones(2))])
        in_use = Path(json.loads(description)["path"])
        for path in (abandoned, in_use):
            os.utime(path, (0, 0))
        with SharedFile(100, folder=tmp_path) as file:
            list(file.buckets([("w", torch.ones(2))]))
        assert {path.name for path in tmp_path.iterdir()} == {in_use.name, fresh.name}


@pytest.mark.parametrize("shard_bytes", [1, 20_000, 1 << 30])
def test_a_checkpoint_in_shards_loads_like_one_in_a_piece(
    tiny_checkpoint: Path, tmp_path: Path, shard_bytes: int
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = random_weights(tiny_checkpoint, seed=5)
    write_checkpoint(tmp_path, weights.items(), tiny_checkpoint, shard_bytes)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<end>"


def test_tied_and_fused_weights_are_written_each_under_its_name(tiny_checkpoint: Path, tmp_path: Path) -> None:
    fused = torch.arange(12.0).reshape(4, 3)
    weights = {"all": fused, "again": fused, "part": fused[1:2]}
    write_checkpoint(tmp_path, weights.items(), tiny_checkpoint, 1 << 20)
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("pause", ["retract", "in_place"])
def test_a_request_in_flight_goes_on_under_the_new_weights(
    engine_url: str, tiny_checkpoint: Path, pause: UpdatePause
) -> None:
    fleet = Fleet([engine_url], SharedMemoryWay(pause=pause))

    async def crossing(client: HttpEngineClient, version: int) -> Completion:
        """A completion that was asked under one version and got another on its way."""
        fleet_of = partial(asyncio.to_thread, fleet.publish)
        await fleet_of(random_weights(tiny_checkpoint, seed=1).items(), version)
        sampling = SamplingParams(max_new_tokens=60, min_new_tokens=60, temperature=0.0)
        asked = asyncio.create_task(client.generate([5, 6, 7], sampling))
        await asyncio.sleep(0.01)
        await fleet_of(random_weights(tiny_checkpoint, seed=2).items(), version + 1)
        return await asked

    async def go() -> tuple[list[float], list[float]]:
        async with HttpEngineClient(engine_url) as client:
            for version in range(20, 120, 2):
                crossed = await crossing(client, version)
                if set(crossed.weight_versions) == {version, version + 1}:
                    new = crossed.weight_versions.index(version + 1)
                    sampling = SamplingParams(max_new_tokens=60 - new, min_new_tokens=60 - new, temperature=0.0)
                    again = await client.generate([5, 6, 7, *crossed.tokens[:new]], sampling)
                    return crossed.log_probs[new:], again.log_probs
        raise AssertionError("no request was in flight when weights came")

    found, exact = asyncio.run(go())
    assert (found == pytest.approx(exact, abs=1e-4)) == (pause == "retract")
