"""What `hieramp-export` says of the plan it wrote: parity, and how the 8-bit layers were calibrated."""

import math
from dataclasses import asdict
from typing import Any

from hieramp.runtime.manifest import FusedParity, Manifest, Parity
from hieramp.runtime.quantization import DecoderQuantization, Quantization


def summary_figures(manifest: Manifest) -> dict[str, Any]:
    """The figures as JSON values."""
    figures = asdict(_parity(manifest))
    return figures | ({"quantization": asdict(manifest.quantization)} if manifest.quantization else {})


def summary_lines(manifest: Manifest) -> list[str]:
    """The figures in words."""
    parity = _parity(manifest)
    lines = [f"parity: logits within {max(parity.logits_max_abs):.3g} of the reference (allowed "
             f"{parity.threshold:.3g}), image PSNR {parity.image_psnr_db:.1f} dB"]
    if parity.encoder_agreement is not None:
        lines.append(f"encoder: {parity.encoder_agreement:.2%} of its tokens are those of the reference")
    lines += [_fused_line(parity.fused)] if parity.fused else []
    if manifest.quantization:
        lines += _quantization_lines(manifest.precision, manifest.quantization)
        lines += _decoder_lines(manifest.quantization.decoder) if manifest.quantization.decoder else []
        lines.append(f"logits: error {max(parity.logits_rms):.3g} root mean square, the drawn distributions are "
                     f"{max(parity.kl):.2g} nats away, at the worst scale")
    return lines


def _fused_line(fused: FusedParity) -> str:
    logits = "not finite" if fused.logits_max_abs is None else f"within {fused.logits_max_abs:.3g}"
    image = "images not finite" if fused.image_psnr_db is None else f"image PSNR {fused.image_psnr_db:.1f} dB"
    ended = "" if fused.kept else ", which is too far: the plan has none, and GPUs take the portable ones"
    return f"fused graphs, for GPUs: logits {logits}, {image}{ended}"


def _quantization_lines(precision: str, quantization: Quantization) -> list[str]:
    layers = quantization.layers
    kept = [name for name, layer in layers.items() if not layer.eight_bits]
    worst = max(layers, key=lambda name: layers[name].logits_error)
    widest = max(layers, key=lambda name: layers[name].input_largest)
    return [
        f"quantized: {len(layers) - len(kept)} of {len(layers)} block layers in {precision}, the rest in "
        f"{quantization.base_precision}" + (f"; too sensitive: {', '.join(kept)}" if kept else ""),
        f"calibrated on {quantization.images} images: inputs up to {layers[widest].input_largest:.3g} ({widest}); one "
        f"layer alone moves the logits by up to {layers[worst].logits_error:.2%} ({worst})",
    ]


def _decoder_lines(decoder: DecoderQuantization) -> list[str]:
    narrow = sum(layer.eight_bits for layer in decoder.layers.values())
    expected = f", image PSNR {-20 * math.log10(decoder.image_error):.1f} dB expected" if decoder.image_error else ""
    return [f"decoder: {narrow} of {len(decoder.layers)} convolutions in int8{expected}"]


def _parity(manifest: Manifest) -> Parity:
    assert manifest.parity is not None, "an export ends with the parity gate"
    return manifest.parity
