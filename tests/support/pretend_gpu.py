"""A GPU that is not there: its tensors say ``cuda:0``, refuse to meet tensors of the CPU, and are computed on the CPU.

Where code is right, a run on it ends with the bits of a run on the CPU, generators included. What it cannot show:
rounding of GPU kernels, what runs asynchronously (``replay/test_copies.py``), autocast, speed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, return_and_correct_aliasing
from torch.utils._pytree import tree_map

from plasticity_rl.replay.files import RecordFiles

GPU = torch.device("cuda:0")
TAKES_INDICES_FROM_ANYWHERE = ("index", "index_put", "index_put_", "_index_put_impl_")


class Misplaced(Exception):
    """Tensors or a generator of the CPU met tensors of the GPU."""


class OnGPU(Tensor):
    """A tensor of the GPU; ``there`` holds its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # no modes of its own: _Functions is one for all
    is_cuda, is_meta, device = True, False, GPU  # type: ignore[assignment]
    there: Tensor

    @staticmethod
    def __new__(cls, there: Tensor) -> OnGPU:
        # On the device "meta", for which autograd needs no driver.
        layout = {"strides": there.stride(), "storage_offset": there.storage_offset(), "dtype": there.dtype}
        return Tensor._make_wrapper_subclass(cls, there.size(), **layout, device="meta")

    def __init__(self, there: Tensor) -> None:
        self.there = there

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:  # for checkpoints
        return self.there.detach().__reduce_ex__(protocol)

    def __format__(self, spec: str) -> str:
        return format(self.there, spec)

    def __repr__(self) -> str:
        return f"OnGPU({self.there})"


_generator_device = [torch.device("cpu")]


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do one operator on the CPU; written for speed, as a run with many callbacks calls it a million times."""
    tensors = list(_tensors_in(args))
    if kwargs:
        tensors += _tensors_in(kwargs.values())
    name, draws = _about(func)
    device = kwargs.get("device")
    ours = any(isinstance(x, OnGPU) for x in tensors)
    if name == "copy_":
        to_gpu = isinstance(args[0], OnGPU)
    else:
        to_gpu = ours if device is None else torch.device(device).type != "cpu"
        if ours and name != "_to_copy":
            _refuse_mixture(func, name, args, tensors)
    if draws and kwargs.get("generator") is not None:
        expected = GPU.type if to_gpu else "cpu"
        if _generator_device[-1].type != expected:
            raise Misplaced(f"{func}: a generator of {_generator_device[-1]} for tensors on {expected}")
    plain = {key: _there(value) for key, value in kwargs.items()}
    if device is not None:
        plain["device"] = torch.device("cpu")
    out = func(*map(_there, args), **plain)
    if not to_gpu:
        return out
    out = OnGPU(out) if isinstance(out, Tensor) else tree_map(lambda x: OnGPU(x) if isinstance(x, Tensor) else x, out)
    return return_and_correct_aliasing(func, args, kwargs, out) if ours and name != "_to_copy" else out


def _refuse_mixture(func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
    asked = args[:1] if name in TAKES_INDICES_FROM_ANYWHERE else tensors
    strangers = [x for x in asked if not isinstance(x, OnGPU) and (x.dim() or x is args[0] and name.endswith("_"))]
    if strangers:
        raise Misplaced(f"{func}: {[(tuple(x.shape), str(x.device)) for x in tensors]}")


@functools.cache
def _about(func: Any) -> tuple[str, bool]:
    """Return the name of an operator, and whether it can be given a generator."""
    return func.overloadpacket.__name__, "generator" in str(func._schema)


def _tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors among an operator's arguments, which are tensors, plain values, and lists of them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors_in(value)


def _there(value: Any) -> Any:
    """Return an argument with the tensors of the CPU that compute it."""
    if isinstance(value, OnGPU):
        return value.there
    return type(value)(map(_there, value)) if isinstance(value, (list, tuple)) else value


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What never gets to the operators: data copied from Python or to NumPy, ``.data``, which generator was given."""

    def __init__(self) -> None:
        super().__init__()
        self._gradients: dict[int, Tensor | None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.tolist and isinstance(args[0], OnGPU):
            return args[0].there.tolist()
        if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], OnGPU):
            raise Misplaced(f"{func.__name__} of a tensor of the GPU")
        if func in (torch.tensor, torch.as_tensor) and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            return func(*args, **{**kwargs, "device": None}).to(GPU)
        if func == Tensor.data.__set__ and isinstance(args[0], OnGPU) != isinstance(args[1], OnGPU):
            return self._move(*args)
        if (generator := kwargs.get("generator")) is None:
            return func(*args, **kwargs)
        _generator_device.append(generator.device)
        try:
            return func(*args, **kwargs)
        finally:
            _generator_device.pop()

    def _move(self, parameter: Tensor, data: Tensor) -> None:
        """Do ``parameter.data = data`` of another device: the parameter stays the same object."""
        gradient, parameter.grad = parameter.grad, None
        torch.utils.swap_tensors(parameter, torch.nn.Parameter(data, requires_grad=parameter.requires_grad))
        if isinstance(parameter, OnGPU):
            parameter.grad = self._gradients.pop(id(parameter))
        else:
            self._gradients[id(parameter)] = gradient


class _Generator(torch.Generator):
    """Says which device it is for, and draws the CPU's numbers."""

    def __new__(cls, device: Any = "cpu") -> _Generator:
        return super().__new__(cls, "cpu")

    def __init__(self, device: Any = "cpu") -> None:
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self._device


def _outside(method: Callable) -> Callable:
    @functools.wraps(method)
    def outside(*args: Any, **kwargs: Any) -> Any:
        with _disable_current_modes():
            return method(*args, **kwargs)

    return outside


@contextlib.contextmanager
def pretend_gpu() -> Iterator[None]:
    """Let ``cuda:0`` exist."""
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(torch.cuda, "_lazy_init"))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        for name in ("create", "open", "fork", "claim_disk", "raise_high_water", "sync"):
            stack.enter_context(mock.patch.object(RecordFiles, name, _outside(getattr(RecordFiles, name))))
        torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to keeps the identity of parameters
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        stack.enter_context(_Functions())
        stack.enter_context(_Operators())
        yield


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def trainer_options() -> dict[str, Any]:
    """Return arguments of ``make_trainer`` for a run on it."""
    return {"strategy": SingleDeviceStrategy(device=GPU, accelerator=_Accelerator()), "accelerator": "auto"}
