"""Write a plan: weight file, graphs, manifest, then the parity gate, in a folder that appears only when all is well."""

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnx
from torch import Tensor

from hieramp.export.bounds import MINIMUM_PSNR_DB
from hieramp.export.condition_graph import condition_graph
from hieramp.export.decoder_graph import decoder_graph
from hieramp.export.dimensions import Dimensions, static_dimensions
from hieramp.export.encoder_gate import encoder_gate
from hieramp.export.encoder_graph import encoder_graph
from hieramp.export.errors import ExportError
from hieramp.export.fused.decoder import fused_decoder_graph
from hieramp.export.fused.gate import fused_gate
from hieramp.export.fused.step import can_be_fused, fused_step_graph
from hieramp.export.gate import gate_trace, parity_gate
from hieramp.export.latent_graph import latent_graph
from hieramp.export.output_folder import folder_in_one_step
from hieramp.export.quantization.quantize import plan_quantization, quantized_tensors
from hieramp.export.scale_constants import encoder_constants, scale_constants
from hieramp.export.step_graph import logits_graph, step_graph
from hieramp.export.weight_file import COMPUTE_TYPES, StoredTensor, write_weights
from hieramp.runtime import Plan
from hieramp.runtime.contract import CUT, ENCODER, FUSED, GRAPH_NAMES, LATENT, LOGITS, MANIFEST, WEIGHTS
from hieramp.runtime.manifest import (
    SCHEMA_VERSION,
    Amplification,
    ClassList,
    GraphSpec,
    Manifest,
    ModelShape,
    Sampling,
    StaticScales,
    TensorSpec,
    manifest_json,
)
from hieramp.runtime.manifest_rules import PRECISIONS
from hieramp.runtime.plan import describe_member
from hieramp.runtime.quantization import BASE_PRECISIONS, EIGHT_BIT_PRECISIONS, Quantization
from hieramp_ref.settings import Settings
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var
from hieramp_ref.vqvae import Vqvae

DEFAULT_BASE_PRECISION = "fp16"
DECODERS = ("int8", "float")
CACHE_PRECISIONS = ("fp16", "bf16")
_TYPE_NAMES = {1: "float32", 7: "int64", 10: "float16", 16: "bfloat16"}
_OF_ENCODER = ("encoder.", "quant_conv.")
_TRAINING_ONLY = ("class_head.", *_OF_ENCODER)


@dataclass(frozen=True)
class ExportOptions:
    """How a plan is written; `keep_training_weights` adds the encoder's weights and the class head, to train on.

    `with_encoder` adds the encoder as a graph, which gives the tokens of an image. `base_precision` is what 8-bit plans
    compute everything else in, `calibration_images` what they are calibrated on, `decoder` int8 or float: int8 unless
    given where an int8 plan computes the rest in fp32. As much of it is quantized as keeps `decoder_psnr`, in dB, by
    expectation; the default is what an fp16 plan must keep. 8-bit plans keep keys and values from scale to scale in
    `cache_precision`, fp16 unless given.
    """

    name: str
    precision: str = "fp32"
    static_scales: bool = False
    static_batch: int = 1
    trace_outputs: bool = False
    keep_training_weights: bool = False
    with_encoder: bool = False
    base_precision: str | None = None
    calibration_images: int = 32
    decoder: str | None = None
    decoder_psnr: float = MINIMUM_PSNR_DB["fp16"]
    cache_precision: str | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ExportError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if self.decoder not in (None, *DECODERS):
            raise ExportError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        if self.decoder == "int8" and self.precision != "int8":
            raise ExportError(f"decoder int8 is for int8 plans: leave it out with {self.precision}")
        if self.precision not in EIGHT_BIT_PRECISIONS:
            for what, given in (("base", self.base_precision), ("cache", self.cache_precision)):
                if given is not None:
                    raise ExportError(f"{what} precision {given} is for {' and '.join(EIGHT_BIT_PRECISIONS)}: "
                                      f"leave it out with {self.precision}")
            return
        if self.base_precision not in (None, *BASE_PRECISIONS):
            raise ExportError(f"base precision must be one of {', '.join(BASE_PRECISIONS)}, "
                              f"got {self.base_precision!r}")
        if self.cache_precision not in (None, *CACHE_PRECISIONS):
            raise ExportError(f"cache precision must be one of {', '.join(CACHE_PRECISIONS)}, "
                              f"got {self.cache_precision!r}")
        if self.keep_training_weights:
            raise ExportError(f"{self.precision} weights cannot be trained on: leave out --keep-training-weights")
        if self.calibration_images < 1:
            raise ExportError(f"calibration images must be at least 1, got {self.calibration_images}")

    @property
    def eight_bits(self) -> bool:
        """Whether layers are quantized."""
        return self.precision in EIGHT_BIT_PRECISIONS

    @property
    def compute_precision(self) -> str:
        """The precision of all that is not in 8 bits."""
        return (self.base_precision or DEFAULT_BASE_PRECISION) if self.eight_bits else self.precision

    @property
    def cache_type(self) -> str:
        """The type that keys and values are kept in from scale to scale: 8-bit plans have no use for float32 there."""
        return COMPUTE_TYPES[(self.cache_precision or CACHE_PRECISIONS[0]) if self.eight_bits else self.precision]

    @property
    def eight_bit_decoder(self) -> bool:
        """Whether the decoder is quantized: unless told otherwise, where a CPU gains by it."""
        if self.decoder is None:
            return self.precision == "int8" and self.compute_precision == "fp32"
        return self.decoder == "int8"


def export_plan(
    var: Var, vqvae: Vqvae, settings: Settings, classes: ClassList, options: ExportOptions, out: Path
) -> Manifest:
    """Write the plan folder `out`, replacing an older plan there, and give its manifest.

    `var` must carry class tokens exactly where the plan shall (none for plain VAR). Raises ExportError for settings or
    weights that a plan cannot hold and for an `out` that cannot be written, ParityError for a plan past the gate;
    either way `out` stays as it was.
    """
    sampling = _sampling(settings, var.spec.vqvae.vocab_size)
    with folder_in_one_step(out) as folder:
        quantization = _quantization(var, vqvae, settings, options)
        tensors = plan_tensors(var, vqvae, options)
        if quantization:
            tensors = quantized_tensors(tensors, quantization, options.precision)
        stored = write_weights(folder / WEIGHTS, tensors, options.compute_precision)
        graphs = _write_graphs(folder, var.spec, stored, settings, options)
        manifest = _manifest(folder, var.spec, settings, sampling, classes, options, graphs, quantization)
        (folder / MANIFEST).write_text(manifest_json(manifest))
        plan = Plan.open(folder, verify=False)
        traced = gate_trace(plan, var, vqvae, settings)
        parity = parity_gate(plan, var, vqvae, settings, traced)
        if options.with_encoder:
            parity = replace(parity, encoder_agreement=encoder_gate(plan, vqvae))
        if FUSED["scale_step"] in graphs:
            parity = replace(parity, fused=fused_gate(plan, var, settings, traced))
            manifest = manifest if parity.fused and parity.fused.kept else _without_fused(folder, manifest)
        manifest = replace(manifest, parity=parity)
        (folder / MANIFEST).write_text(manifest_json(manifest))
    return manifest


def _without_fused(folder: Path, manifest: Manifest) -> Manifest:
    """The plan with its portable graphs alone."""
    files = {manifest.graphs[name].file for name in FUSED.values()}
    for file in files:
        (folder / file).unlink()
    graphs = {name: graph for name, graph in manifest.graphs.items() if graph.file not in files}
    return replace(manifest, graphs=graphs,
                   members={name: member for name, member in manifest.members.items() if name not in files})


def _quantization(var: Var, vqvae: Vqvae, settings: Settings, options: ExportOptions) -> Quantization | None:
    if not options.eight_bits:
        return None
    decoder_psnr = options.decoder_psnr if options.eight_bit_decoder else None
    return plan_quantization(var, vqvae, settings, options.precision, options.compute_precision,
                             options.calibration_images, decoder_psnr=decoder_psnr)


def plan_tensors(var: Var, vqvae: Vqvae, options: ExportOptions) -> dict[str, Tensor]:
    """Everything the weight file holds: both models in the published layout, and the constants of the scales."""
    tensors = {f"var.{k}": v for k, v in var.state_dict().items()}
    tensors |= {f"vae.{k}": v for k, v in vqvae.state_dict().items()}
    if not options.keep_training_weights:
        dropped = tuple(set(_TRAINING_ONLY) - set(_OF_ENCODER if options.with_encoder else ()))
        tensors = {k: v for k, v in tensors.items() if not k.split(".", 1)[1].startswith(dropped)}
    return tensors | scale_constants(var) | (encoder_constants(var.spec) if options.with_encoder else {})


def _write_graphs(
    folder: Path, spec: ModelSpec, stored: dict[str, StoredTensor], settings: Settings, options: ExportOptions
) -> dict[str, GraphSpec]:
    precision = options.compute_precision

    def step(name: str, dimensions: Dimensions) -> onnx.ModelProto:
        return step_graph(spec, stored, precision, dimensions, settings.blocks, trace=options.trace_outputs,
                          name=name, cache_type=options.cache_type)

    models = {
        "condition": condition_graph(spec, stored, precision, Dimensions()),
        "scale_step": step("scale_step", Dimensions()),
        "decoder": decoder_graph(spec.vqvae, stored, precision, Dimensions()),
        LOGITS: logits_graph(spec, stored, precision, Dimensions(), settings.blocks, trace=options.trace_outputs,
                             cache_type=options.cache_type),
        LATENT: latent_graph(spec, stored, Dimensions()),
    }
    if options.with_encoder:
        models[ENCODER] = encoder_graph(spec, stored, Dimensions())
    if options.precision == "fp16" and can_be_fused(spec):
        step_name, decoder_name = FUSED["scale_step"], FUSED["decoder"]
        models[step_name] = fused_step_graph(spec, stored, precision, Dimensions(), settings.blocks,
                                             trace=options.trace_outputs)
        models[decoder_name] = fused_decoder_graph(spec.vqvae, stored, precision, Dimensions())
    if options.static_scales:
        models |= {n: step(n, static_dimensions(spec, k, options.static_batch))
                   for k, n in enumerate(_static_names(spec))}
    for name, model in models.items():
        path = folder / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        if name not in FUSED.values():  # SimplifiedLayerNormalization is ONNX Runtime's, though not by its domain
            onnx.checker.check_model(str(path), full_check=False)
    named = (*GRAPH_NAMES, *CUT, ENCODER, *FUSED.values())
    return {name: graph_spec(f"{name}.onnx", models[name]) for name in named if name in models}


def _static_names(spec: ModelSpec) -> list[str]:
    return [f"scale_{k:02d}" for k in range(spec.scale_count)]


def _manifest(
    folder: Path, spec: ModelSpec, settings: Settings, sampling: Sampling, classes: ClassList, options: ExportOptions,
    graphs: dict[str, GraphSpec], quantization: Quantization | None,
) -> Manifest:
    static = [f"{name}.onnx" for name in _static_names(spec)] if options.static_scales else []
    files = [WEIGHTS, *(graph.file for graph in graphs.values()), *static]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=options.name,
        precision=options.precision,
        model=model_shape(spec),
        cache_type=options.cache_type,
        amplification=_amplification(spec, settings),
        sampling=sampling,
        classes=classes,
        trace_outputs=options.trace_outputs,
        graphs=graphs,
        static_scales=StaticScales(options.static_batch, tuple(static)) if static else None,
        members={file: describe_member(folder / file) for file in files},
        producer={package: _version(package) for package in ("hieramp", "torch", "onnx")},
        parity=None,
        quantization=quantization,
    )


def model_shape(spec: ModelSpec) -> ModelShape:
    vqvae, var = spec.vqvae, spec.var
    return ModelShape(vqvae.patch_sides, vqvae.vocab_size, vqvae.z_channels, vqvae.image_side, var.depth, var.width,
                      var.heads, var.num_classes, vqvae.phi_count, var.class_token_scales)


def _amplification(spec: ModelSpec, settings: Settings) -> Amplification | None:
    if not spec.var.class_token_scales:
        return None
    return Amplification(tuple(sorted(set(settings.blocks))), settings.beta, settings.top_ratio)


def _sampling(settings: Settings, vocab_size: int) -> Sampling:
    """The sampling defaults in a plan's terms, where a rule that is off keeps everything: top_k V, top_p 1."""
    if len(set(settings.cfg)) > 1:
        raise ExportError(f"cfg of a plan is one value, got {list(settings.cfg)}: give one a scale when running it")
    top_k = settings.top_k if 0 < settings.top_k < vocab_size else vocab_size
    return Sampling(settings.cfg[0], top_k, settings.top_p if 0 < settings.top_p < 1 else 1.0)


def graph_spec(file: str, model: onnx.ModelProto) -> GraphSpec:
    """What the manifest says of a graph."""
    return GraphSpec(file, *(tuple(map(_tensor_spec, values)) for values in (model.graph.input, model.graph.output)))


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return TensorSpec(value.name, _TYPE_NAMES[tensor.elem_type], shape)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
