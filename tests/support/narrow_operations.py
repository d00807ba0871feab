"""Which operations meet bfloat16."""

from __future__ import annotations

from torch import Tensor, bfloat16
from torch.utils._python_dispatch import TorchDispatchMode

WIDE_OPERATIONS = (  # never on bfloat16 under autocast
    *("native_layer_norm", "native_group_norm", "_softmax", "_log_softmax", "exp", "expm1", "log", "square", "mean"),
    *("sum", "addcmul", "lerp", "mul", "sub", "div", "clamp", "gt", "round", "argmax", "topk", "cos", "sin"),
)


class Watch(TorchDispatchMode):
    """Notes all operations, those that meet bfloat16, and those of WIDE_OPERATIONS that do."""

    def __init__(self):
        super().__init__()
        self.seen, self.narrow, self.too_narrow = set(), set(), set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "aten":
            with self:  # in inference mode operations arrive that are made of others
                if (found := function.decompose(*args, **(kwargs or {}))) is not NotImplemented:
                    return found
        name = function.overloadpacket.__name__
        self.seen.add(name)
        if any(isinstance(a, Tensor) and a.dtype == bfloat16 for a in args):
            self.narrow.add(name)
            if name in WIDE_OPERATIONS:
                self.too_narrow.add(name)
        return function(*args, **(kwargs or {}))
