"""The convolutions of the decoder that can be quantized, and a look at each of them inside the reference."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from hieramp_ref.vqvae import Vqvae

# The first reads the codebook's sums and the last makes the picture; a hundredth of the multiplications.
_STAY_FLOAT = ("conv_in", "conv_out")
Product = Callable[[Tensor, Tensor], Tensor]
Convolve = Callable[[str, Tensor, Tensor, Product], Tensor]


def decoder_weights(vqvae: Vqvae) -> dict[str, Tensor]:
    """Weights [N, C, k, k] of the convolutions between the decoder's first and last, by the layer's key in a plan.

    Those that plans multiply with are those of a model `with_subpixel_upsampling`.
    """
    return {f"vae.decoder.{name}": module.weight.detach() for name, module in vqvae.decoder.named_modules()
            if isinstance(module, nn.Conv2d) and name not in _STAY_FLOAT}


def adds_bias_behind(layer: str) -> bool:
    """Whether a layer's output is rounded before its bias is added.

    ONNX Runtime fuses a convolution only where its rounded output has one reader. A group norm reads it several times,
    so there the bias is that reader.
    """
    return layer.endswith(".conv1")


def is_upsampling(layer: str) -> bool:
    """Whether a layer's stored 8-bit weight is that of `subpixel_weight`."""
    return layer.endswith(".upsample.conv")


class WatchedConvolutions(TorchFunctionMode):
    """While it is entered, convolutions with these weights are `convolve(layer, x, weight, product)`, where
    `product(x, weight)` is the convolution with its bias, unless that is added behind."""

    def __init__(self, weights: Mapping[str, Tensor], convolve: Convolve) -> None:
        super().__init__()
        self._layers = {weight.data_ptr(): layer for layer, weight in weights.items()}
        self._convolve = convolve

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func is not functional.conv2d or args[1].data_ptr() not in self._layers:
            return func(*args, **(kwargs or {}))
        layer, (x, weight, bias, *rest) = self._layers[args[1].data_ptr()], args
        behind = adds_bias_behind(layer)
        y = self._convolve(layer, x, weight, lambda x, weight: func(x, weight, None if behind else bias, *rest))
        return y + bias[:, None, None] if behind else y
