"""What the command says of 8-bit layers."""

from types import SimpleNamespace

from hieramp.export.summary import summary_figures, summary_lines
from hieramp.runtime.manifest import Parity
from hieramp.runtime.quantization import DecoderQuantization, Quantization, QuantizedConvolution, QuantizedLayer

PARITY = Parity((0.25, 0.5), 52.0, 3.0, True, (0.01, 0.125), (0.001, 0.05))
LAYERS = {"a": QuantizedLayer(True, 12.5, 0.1, 0.02, 0.01, 0.003),
          "b": QuantizedLayer(False, 3.0, 0.1, 0.02, 0.01, 0.25)}


def test_lines_and_figures() -> None:
    manifest = SimpleNamespace(precision="int8", parity=PARITY, quantization=Quantization("fp16", 32, 7, LAYERS))
    assert summary_lines(manifest) == [  # type: ignore[arg-type]
        "parity: logits within 0.5 of the reference (allowed 3), image PSNR 52.0 dB",
        "quantized: 1 of 2 block layers in int8, the rest in fp16; too sensitive: b",
        "calibrated on 32 images: inputs up to 12.5 (a); one layer alone moves the logits by up to 25.00% (b)",
        "logits: error 0.125 root mean square, the drawn distributions are 0.05 nats away, at the worst scale",
    ]
    figures = summary_figures(manifest)  # type: ignore[arg-type]
    assert figures["quantization"]["layers"]["a"]["input_largest"] == 12.5 and figures["kl"] == (0.001, 0.05)


def test_a_line_of_the_decoder() -> None:
    layers = {name: QuantizedConvolution(eight_bits, 1.0, 0.1, 1.0, 0.1, error)
              for name, eight_bits, error in (("a", True, 0.006), ("b", True, 0.008), ("c", False, 0.5))}
    for kept, line in ((0, "decoder: 0 of 1 convolutions in int8"),
                       (3, "decoder: 2 of 3 convolutions in int8, image PSNR 40.0 dB expected")):
        decoder = DecoderQuantization(layers if kept else {"c": layers["c"]})
        manifest = SimpleNamespace(precision="int8", parity=PARITY,
                                   quantization=Quantization("fp32", 32, 7, LAYERS, decoder))
        assert line in summary_lines(manifest)  # type: ignore[arg-type]
