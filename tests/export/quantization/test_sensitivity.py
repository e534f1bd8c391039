"""Expected errors of the logits against quantizing one layer after another, and the choice of sensitive ones."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hieramp.export.model_source import LoadedModel
from hieramp.export.quantization.block_layers import WatchedLayers, block_weights
from hieramp.export.quantization.calibration import calibrate, calibration_batches
from hieramp.export.quantization.formats import FORMATS, EightBitFormat
from hieramp.export.quantization.sensitivity import SENSITIVITY_IMAGES, logits_errors, sensitive_layers
from hieramp_ref.generate import generate


def input_scales(model: LoadedModel, kind: EightBitFormat) -> dict[str, Tensor]:
    return {layer: torch.tensor(found.largest / kind.largest)
            for layer, found in calibrate(model.var, model.vqvae, model.settings, 4)[0].items()}


def measured_error(model: LoadedModel, layer: WatchedLayers) -> float:
    """The layer alone quantized while the reference draws on the tokens of the whole model."""
    labels, uniforms = next(calibration_batches(model.var, SENSITIVITY_IMAGES))
    settings = replace(model.settings, beta=(0.0,) * model.var.spec.scale_count)
    wanted = generate(model.var, model.vqvae, labels, uniforms, settings, decode=False)
    with layer:
        found = generate(model.var, model.vqvae, labels, uniforms, settings, wanted.tokens, decode=False)
    error, size = (sum(float(x.double().square().sum()) for x in parts) for parts in (
        [a - b for a, b in zip(found.logits, wanted.logits, strict=True)], wanted.logits))
    return math.sqrt(error / size)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
@pytest.mark.parametrize("scales", [(0, 1, 2), ()], ids=["class tokens", "plain"])
def test_what_is_expected_is_what_quantizing_does(
    make_model: Callable[..., LoadedModel], quantized_layers: Callable[..., WatchedLayers], precision: str,
    scales: tuple[int, ...],
) -> None:
    """To first order, and by one draw of signs: within a third for each layer, a tenth on the average."""
    model, kind = make_model({"class_token_scales": scales}, {"amplify": bool(scales)}), FORMATS[precision]
    steps = input_scales(model, kind)
    expected = logits_errors(model.var, model.vqvae, model.settings, steps, kind, "fp32")
    weights = block_weights(model.var)
    assert expected.keys() == weights.keys()
    ratios = [error / measured_error(model, quantized_layers({layer: weights[layer]}, steps, kind))
              for layer, error in expected.items()]
    assert all(0.67 < ratio < 1.5 for ratio in ratios)
    assert 0.9 < math.prod(ratios) ** (1 / len(ratios)) < 1.1


def test_the_median_decides_which_layers_are_sensitive() -> None:
    errors = {f"layer {i}": 0.01 for i in range(10)} | {"bad": 0.031, "worse": 5.0, "large": 0.0299}
    assert sensitive_layers(errors) == {"bad", "worse"}


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_an_input_with_an_outlier_makes_a_layer_sensitive(
    make_model: Callable[..., LoadedModel], precision: str
) -> None:
    """One input channel a thousand times as large costs int8 all its steps, and a floating-point format nothing."""
    model = make_model()
    kind, var = FORMATS[precision], model.var
    scales = {layer: torch.tensor(found.largest / kind.largest)
              for layer, found in calibrate(var, model.vqvae, model.settings, 4)[0].items()}
    name = "var.blocks.1.ffn.fc1"
    plain = logits_errors(var, model.vqvae, model.settings, scales, kind, "fp32")
    spoilt = logits_errors(var, model.vqvae, model.settings, scales | {name: 100 * scales[name]}, kind, "fp32")
    assert {layer for layer in plain if plain[layer] != spoilt[layer]} == {name}
    assert (name in sensitive_layers(spoilt)) == (precision == "int8")
    assert all(0 < error < 0.2 for error in plain.values())
