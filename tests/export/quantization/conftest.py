"""8-bit plans of the tiny model, exported once each, and the reference with 8-bit layers."""

from collections.abc import Callable, Mapping
from functools import cache

import pytest
from torch import Tensor

from hieramp.export.model_source import LoadedModel
from hieramp.export.quantization.block_layers import WatchedLayers
from hieramp.export.quantization.formats import EightBitFormat, rounded, row_scales
from hieramp.runtime import Plan


@pytest.fixture(scope="session")
def eight_bit_plan(tiny: LoadedModel, export: Callable[..., Plan],
                   tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Plan]:
    """The plan of a precision and a base precision, with trace outputs and a float decoder; not to be changed."""
    @cache
    def plan(precision: str, base_precision: str) -> Plan:
        folder = tmp_path_factory.mktemp("eight") / "tiny.plan"
        return export(tiny, folder, precision=precision, base_precision=base_precision, calibration_images=10,
                      trace_outputs=True, decoder="float")

    return plan


@pytest.fixture(scope="session")
def int8_decoder_plan(tiny: LoadedModel, export: Callable[..., Plan],
                      tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    """The int8 plan of a base precision, with all convolutions between the first and the last quantized."""
    @cache
    def plan(base_precision: str) -> Plan:
        return export(tiny, tmp_path_factory.mktemp("decoder") / "tiny.plan", precision="int8", decoder="int8",
                      base_precision=base_precision, calibration_images=32, decoder_psnr=0)

    return plan


@pytest.fixture(scope="session")
def quantized_layers() -> Callable[..., WatchedLayers]:
    """A context in which the reference computes these layers with operands rounded to 8 bits."""
    def watched(weights: Mapping[str, Tensor], input_scales: Mapping[str, Tensor],
                kind: EightBitFormat) -> WatchedLayers:
        narrow = {layer: rounded(w, row_scales(w, kind, "fp32")[:, None], kind) for layer, w in weights.items()}
        return WatchedLayers(weights, lambda layer, x, _: (rounded(x, input_scales[layer], kind), narrow[layer]))

    return watched
