"""CUDA without a GPU: networks of full size on tensors that have a device, a type and a shape, but no values.

Inside `fake_cuda` new tensors are CUDA tensors; inside `on_host`, too, tensors that name no device are on the CPU, as
where real code runs. A CPU tensor among CUDA tensors raises an error, as on a GPU, and so does a generator of another
device than the tensor it fills. Host waits and uploads are noted, and every byte counted. Backward passes, fused
optimizers and real generators need a driver.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mixar.training.draws import Draws

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
BLOCK = 512  # bytes, which the allocator rounds up to
NONZERO_ROWS = 9  # how many entries are found where the code asks which are not zero
INITIALISERS = ("xavier_uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "uniform_")


class CudaGenerator(torch.Generator):
    """A generator that says it is on the GPU; a real one needs a driver."""

    device = property(lambda self: CUDA)  # type: ignore[assignment]

    def __new__(cls, _device: Any = CUDA) -> CudaGenerator:
        return super().__new__(cls)


class CudaDraws(CudaGenerator, Draws):
    """Draws of a group of images on the GPU; what the host must know comes from the CPU, as in a training."""


class GeneratorsFit(TorchFunctionMode):
    """Compares the device of each generator with that of the tensor it fills; dispatch no longer knows its class."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        given = (*args, *(kwargs or {}).values())
        found = function(*args, **(kwargs or {}))
        generator = next((each for each in given if isinstance(each, torch.Generator)), None)
        if generator and isinstance(found, Tensor) and generator.device.type != found.device.type:
            name = getattr(function, "__name__", function)
            raise RuntimeError(f"{name}: a {generator.device} generator fills a tensor on {found.device}")
        return found


class FakeCuda(TorchDispatchMode):
    """Watches every operation.

    waits: the place in mixar of each read that the host waits for. uploads: of each copy from pageable memory of the
    host, which waits, too. bytes, peak: of all tensors now, and the most yet. quantile: the answer where a number is
    read. Reads of CPU tensors are answered and not counted.
    """

    counted = "cuda"  # the devices whose bytes count

    def __init__(self, quantile: float):
        super().__init__()
        self.quantile, self.bytes, self.peak = quantile, 0, 0
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self._seen: set[int] = set()

    def _count(self, found: Any) -> None:
        """Add the storages of an operation's results, each until it is freed."""
        for tensor in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(tensor, Tensor) and tensor.device.type == self.counted:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    size = -(-storage.nbytes() // BLOCK) * BLOCK
                    self.bytes += size
                    self.peak = max(self.peak, self.bytes)
                    weakref.finalize(storage, self._free, storage._cdata, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.bytes -= size

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operation.namespace == "aten":
            with self:  # in inference mode operations arrive that are made of others, such as `to`
                if (found := operation.decompose(*args, **kwargs)) is not NotImplemented:
                    return found
        tensor = next((a for a in args if isinstance(a, Tensor)), None)
        on_gpu = tensor is not None and tensor.device.type == "cuda"
        if operation is aten._local_scalar_dense.default:
            self._note(on_gpu)
            return self._answer(tensor)
        if operation is aten.nonzero.default:
            self._note(on_gpu)
            found = torch.empty(NONZERO_ROWS, tensor.dim(), dtype=torch.long, device=tensor.device)
            self._count(found)
            return found
        if operation is aten.exponential_.default:  # a false alarm where it is given a generator
            return tensor
        if operation is aten._to_copy.default and kwargs.get("device") is not None:
            self._note_copy(tensor.device, torch.device(kwargs["device"]), kwargs.get("non_blocking", False))
        if operation is aten.copy_.default:
            self._note_copy(args[1].device, args[0].device, kwargs.get("non_blocking", False) or args[2:] == (True,))
        if operation in INDEXING and on_gpu and any(i is not None and i.device.type == "cpu" for i in args[1]):
            self.uploads.append(_place())
        found = operation(*args, **kwargs)
        self._count(found)
        return found

    def _note(self, on_gpu: bool) -> None:
        if on_gpu:
            self.waits.append(_place())

    def _note_copy(self, source: torch.device, target: torch.device, is_async: bool) -> None:
        if source.type == "cuda" and target.type == "cpu":
            self.waits.append(_place())
        elif source.type == "cpu" and target.type == "cuda" and not is_async:
            self.uploads.append(_place())

    def _answer(self, tensor: Tensor) -> Any:
        if tensor.dtype == torch.bool:
            return True
        return self.quantile if tensor.is_floating_point() else 1


def _place() -> str:
    """File and function of mixar that runs now."""
    frame = sys._getframe()
    # A generator expression has no name; the function around it does.
    while frame and (ROOT / "mixar" not in Path(frame.f_code.co_filename).parents or frame.f_code.co_name[0] == "<"):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT / 'mixar')} {frame.f_code.co_name}" if frame else "tests"


def flash_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
    """What CUDA chooses in bf16; it keeps the queries, keys, values, the output and a sum a row."""
    kernel = aten._scaled_dot_product_flash_attention
    if q.dim() != 4:  # without heads, no kernel takes it
        return aten._scaled_dot_product_attention_math(q, k, v, None, dropout_p)[0]
    if q.dtype == torch.float32:
        return aten._scaled_dot_product_efficient_attention(q, k, v, None, torch.is_grad_enabled(), dropout_p)[0]
    return kernel(q, k, v, dropout_p, is_causal)[0]


@contextmanager
def fake_cuda(quantile: float = 0.5) -> Iterator[FakeCuda]:
    """Make tensors on a fake GPU. quantile: the answer where a floating-point number is read, such as the mask rate."""
    answers = [
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),  # or autocast turns itself off
        patch("torch.cuda.is_bf16_supported", lambda *_, **__: True),
        patch("torch.nn.functional.scaled_dot_product_attention", flash_attention),
        *(patch(f"torch.nn.init.{name}", lambda t, *_, **__: t) for name in INITIALISERS),  # 100 s become 4 s
    ]
    with ExitStack() as stack:
        for answer in answers:
            stack.enter_context(answer)
        stack.enter_context(FakeTensorMode())
        watch = stack.enter_context(FakeCuda(quantile))
        stack.enter_context(torch.device("cuda"))
        stack.enter_context(GeneratorsFit())
        yield watch


def on_host() -> torch.device:
    """A context in which tensors that name no device are on the CPU."""
    return torch.device("cpu")


def without_values(module: nn.Module) -> nn.Module:
    """A network that was built before `fake_cuda`, with fake CUDA tensors in place of its own. Call it inside."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
            part._parameters[name] = nn.Parameter(fake, value.requires_grad)
        for name, value in part.named_buffers(recurse=False):
            part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    return module
