"""Everything that depends on Megatron-core's version or on CUDA being absent."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch

from slimrl.errors import UsageError
from slimrl.megatron.unequal_parts import let_megatron_exchange_them

FLOOR = (0, 16, 1)


def prepare_megatron(device: torch.device) -> None:
    """Import Megatron-core and make it usable on `device`; call before any other Megatron import.

    Raises UsageError below the tested floor. On a CPU, Megatron's modules are given a view of torch in which CUDA
    means the CPU; torch itself stays as it is, so other users of torch in the process notice nothing.
    """
    found = version("megatron-core")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < FLOOR:
        raise UsageError(f"megatron-core {found} is too old; install megatron-core>={'.'.join(map(str, FLOOR))}")
    _work_without_triton()
    compiling = _without_compiler() if device.type == "cpu" else contextlib.nullcontext()
    with without_megatron_warnings(), compiling:
        for name in (
            "megatron.core.distributed",
            "megatron.core.models.gpt.gpt_layer_specs",
            "megatron.core.models.gpt.gpt_model",
            "megatron.core.optimizer",
            "megatron.core.pipeline_parallel",
        ):
            importlib.import_module(name)
    _use_default_group_silently()
    _work_without_transformer_engine()
    if device.type == "cpu":
        _give_megatron_a_cpu_torch()
        _use_cpu_random_state()
        _take_counts_from_cpu()
        let_megatron_exchange_them()


def prepare_distributed_checkpoints(device: torch.device) -> None:
    """Make Megatron's distributed checkpoints usable on `device`; call after `prepare_megatron`."""
    with without_megatron_warnings():
        for name in ("filesystem_async", "state_dict_saver", "torch"):
            importlib.import_module(f"megatron.core.dist_checkpointing.strategies.{name}")
    if device.type == "cpu":
        _give_megatron_a_cpu_torch()


@contextlib.contextmanager
def without_megatron_warnings() -> Iterator[None]:
    """Silence what Megatron says while it is imported and built.

    It warns of each optional CUDA package (Transformer Engine, Apex, ...) that is not installed and of deprecated
    names and settings in its own code.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _without_compiler() -> Iterator[None]:
    """Make `torch.compile` leave functions as they are while Megatron is imported.

    It marks small functions with it, none of which runs here on a CPU; that alone would load the whole compiler
    (two seconds, 70 MB).
    """
    compile_function = torch.compile

    def leave(function: Any = None, **options: Any) -> Any:  # Any: torch.compile is also a decorator factory
        return leave if function is None else function

    torch.compile = leave  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = compile_function


def submodules_of(spec: Any) -> Any:  # Any: Megatron has no types
    """What a module of a layer's spec is made of; 0.16 describes a module by a ModuleSpec, 0.19 some by a partial."""
    return spec.keywords["submodules"] if isinstance(spec, functools.partial) else spec.submodules


@contextlib.contextmanager
def tensors_stay_on(device: torch.device) -> Iterator[None]:
    """On a CPU, make `tensor.cuda()` return the tensor while Megatron builds a model: pipeline stages say it."""
    if device.type == "cuda":
        yield
        return
    move = torch.Tensor.cuda
    torch.Tensor.cuda = lambda tensor, *args, **kwargs: tensor  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = move  # type: ignore[method-assign]


def mark_parameters(model: torch.nn.Module) -> None:
    """Make Megatron's mixed-precision optimizer accept parameters on a CPU.

    It tells number formats apart by `param.type() == "torch.cuda.BFloat16Tensor"`.
    """
    for parameter in model.parameters():
        if not parameter.is_cuda:
            name = parameter.type().replace("torch.", "torch.cuda.", 1)
            parameter.type = lambda *args, _name=name: _name  # type: ignore[method-assign]


def _use_default_group_silently() -> None:
    """Megatron's own RowParallelLinear passes no group on, and each of its forward passes would warn of that."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import layers

    choose = layers.get_tensor_model_parallel_group_if_none

    def group_or_default(tp_group: Any, *args: Any, **kwargs: Any) -> Any:  # Any: Megatron has no types
        if tp_group is None and not (args or kwargs) and parallel_state.model_parallel_is_initialized():
            tp_group = parallel_state.get_tensor_model_parallel_group()
        return choose(tp_group, *args, **kwargs)

    if choose.__name__ != group_or_default.__name__:
        layers.get_tensor_model_parallel_group_if_none = group_or_default


def _work_without_transformer_engine() -> None:
    """Two places of 0.16 take Transformer Engine to be installed: the router of experts and latent attention."""
    from megatron.core.transformer import multi_latent_attention
    from megatron.core.transformer.moe import moe_utils

    if not isinstance(getattr(multi_latent_attention, "TELinear", None), type):
        multi_latent_attention.HAVE_TE = False
    if not hasattr(moe_utils, "te_general_gemm"):
        moe_utils.te_general_gemm = None


def _work_without_triton() -> None:
    """0.19 imports kernels that put experts' activations aside, unused here; torch for a CPU brings no Triton."""
    if importlib.util.find_spec("triton") is None:
        kernels = types.ModuleType("megatron.core.transformer.moe.ops.paged_stash")
        vars(kernels).update(GLOBAL_BLOCK_SIZE=0, paged_stash_copy_kernel=None, paged_stash_pop_kernel=None)
        sys.modules[kernels.__name__] = kernels


def _give_megatron_a_cpu_torch() -> None:
    view = _CpuTorch()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            module.torch = view  # type: ignore[attr-defined]


def _take_counts_from_cpu() -> None:
    """Experts exchange tokens by arrays of counts, which Megatron makes only of what it moves from a GPU."""
    from megatron.core.transformer.moe import token_dispatcher

    def on_cpu(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:  # Any: Megatron has no types
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    token_dispatcher.maybe_move_tensor_to_cpu = on_cpu


def _use_cpu_random_state() -> None:
    """Layers that are computed again restore CUDA's generator by functions of Megatron's own."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    random._set_cuda_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)


class _View(types.ModuleType):
    """A module seen through a few replacements."""

    def __init__(self, module: types.ModuleType, **replacements: Any) -> None:  # Any: functions and modules
        super().__init__(module.__name__)
        self.__dict__["_module"] = module
        self.__dict__.update(replacements)

    def __getattr__(self, name: str) -> Any:  # Any: whatever the module holds
        return getattr(self.__dict__["_module"], name)


class _CpuTorch(_View):
    def __init__(self) -> None:
        cpu = torch.device("cpu")
        cuda = _View(
            torch.cuda,
            current_device=lambda: cpu,
            synchronize=lambda *args: None,
            manual_seed=torch.manual_seed,
            get_rng_state=lambda *args: torch.get_rng_state(),
            set_rng_state=lambda state, *args: torch.set_rng_state(state),
            Stream=_NoStream,
            Event=_NoStream,
            current_stream=lambda *args: _NoStream(),
            stream=lambda stream: contextlib.nullcontext(),
        )
        factories = {name: _on_cpu(getattr(torch, name)) for name in ("zeros", "ones", "empty", "tensor", "full")}
        super().__init__(torch, cuda=cuda, **factories)


class _NoStream:
    """Stands for a CUDA stream or event where work is done in the order it is asked for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        pass

    def record_event(self) -> _NoStream:
        return self

    def synchronize(self) -> None:
        pass

    def wait_stream(self, *args: Any) -> None:
        pass

    def wait_event(self, *args: Any) -> None:
        pass

    def wait(self, *args: Any) -> None:
        pass


def _on_cpu(factory: Any) -> Any:  # Any: overloaded builtins of torch
    def make(*args: Any, device: Any = None, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        is_cuda = device is not None and torch.device(device).type == "cuda"
        tensor: torch.Tensor = factory(*args, device="cpu" if is_cuda else device, **kwargs)
        return tensor

    return make
