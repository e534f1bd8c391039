"""The linear layers that can be quantized, and a look at each product of theirs inside the reference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hieramp_ref.var import Var

LAYERS = ("attn.mat_qkv", "attn.proj", "ffn.fc1", "ffn.fc2")
Operands = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]


def block_weights(var: Var) -> dict[str, Tensor]:
    """Weights [N, K] of the four linear layers of every block, by the layer's key in a plan."""
    names = [f"blocks.{i}.{layer}" for i in range(var.spec.var.depth) for layer in LAYERS]
    return {f"var.{name}": var.get_parameter(f"{name}.weight").detach() for name in names}


class WatchedLayers(TorchFunctionMode):
    """While it is entered, products with these weights take their input and weight from `operands(layer, x, weight)`.

    Weights are told apart by their memory, so the reference needs no hooks of its own.
    """

    def __init__(self, weights: Mapping[str, Tensor], operands: Operands) -> None:
        super().__init__()
        self._layers = {weight.data_ptr(): layer for layer, weight in weights.items()}
        self._operands = operands

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is functional.linear and args[1].data_ptr() in self._layers:
            args = (*self._operands(self._layers[args[1].data_ptr()], args[0], args[1]), *args[2:])
        return func(*args, **(kwargs or {}))
