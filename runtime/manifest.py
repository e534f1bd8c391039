"""The manifest of a plan: its schema as frozen dataclasses, read strictly from and written to manifest.json."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from hieramp.runtime.bounds import MESSAGE_LENGTH, NAME_LENGTH, size_problems
from hieramp.runtime.contract import CUT, ENCODER, FUSED, GRAPH_NAMES, WEIGHTS, graph_inputs, graph_outputs
from hieramp.runtime.errors import PlanError
from hieramp.runtime.json_file import parse_json
from hieramp.runtime.quantization import EIGHT_BIT_PRECISIONS, Quantization, quantization_problems
from hieramp.runtime.schema import SchemaError, decode, encode
from hieramp.runtime.terminal import shortened

SCHEMA_VERSION = 2
PRECISIONS = ("fp32", "fp16", "bf16", *EIGHT_BIT_PRECISIONS)
CACHE_TYPES = ("float32", "float16", "bfloat16")
CLASS_SCHEMES = ("imagenet", "cifar10", "names")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the model behind a plan."""

    patch_sides: tuple[int, ...]
    vocab_size: int
    z_channels: int
    image_side: int
    depth: int
    width: int
    heads: int
    num_classes: int
    phi_count: int
    class_token_scales: tuple[int, ...]

    @property
    def scale_count(self) -> int:
        return len(self.patch_sides)

    @property
    def latent_side(self) -> int:
        return self.patch_sides[-1]

    @property
    def scale_tokens(self) -> tuple[int, ...]:
        """Tokens of every scale, l_k = p_k squared."""
        return tuple(side * side for side in self.patch_sides)

    @property
    def token_count(self) -> int:
        """Tokens of all scales together, L."""
        return sum(self.scale_tokens)

    def token_range(self, scale: int) -> tuple[int, int]:
        """First token of a scale and the one past its last, in the order of generation."""
        ends = (0, *accumulate(self.scale_tokens))
        return ends[scale], ends[scale + 1]

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def downsampling(self) -> int:
        """Pixels a latent position covers in each direction."""
        return self.image_side // self.latent_side


@dataclass(frozen=True)
class Amplification:
    """Amplified blocks (fixed in the graph) and the default β and ρ of every scale."""

    blocks: tuple[int, ...]
    beta: tuple[float, ...]
    top_ratio: tuple[float, ...]


@dataclass(frozen=True)
class Sampling:
    """Default guidance strength and the limits of top-k and top-p sampling."""

    cfg: float
    top_k: int
    top_p: float


@dataclass(frozen=True)
class ClassList:
    """What the class ids mean; `names` is left out where the scheme is imagenet."""

    scheme: str
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape (a number or a symbol each) of a graph's input or output."""

    name: str
    type: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class GraphSpec:
    """File and interface of a graph."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class StaticScales:
    """The fixed-shape graphs, one a scale, of a plan exported with --static-scales."""

    batch: int
    files: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """Size and SHA-256 of a file of the plan."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class FusedParity:
    """The same of the fused graphs, all scales in one; `kept` says whether they passed, and so are in the plan.

    A figure is null where logits or images were not finite.
    """

    logits_max_abs: float | None
    image_psnr_db: float | None
    kept: bool


@dataclass(frozen=True)
class Parity:
    """How far the plan was from the reference when it was exported; lists have one figure a scale.

    `logits_rms` and `kl` (nats, from the reference's distribution before top-k and top-p) are of all images of the
    gate, `logits_max_abs` of those rows that amplify the same positions. Plans of earlier versions lack the two.
    `encoder_agreement` is the share of equal tokens, of plans with an encoder; `fused` is of fp16 plans.
    """

    logits_max_abs: tuple[float, ...]
    image_psnr_db: float
    threshold: float
    passed: bool
    logits_rms: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    encoder_agreement: float | None = None
    fused: FusedParity | None = None


@dataclass(frozen=True)
class Manifest:
    """Everything manifest.json says; `parity` is null until the export has compared itself with the reference.

    `quantization` is there in 8-bit plans only; `license` is that of the weights, as an SPDX identifier or in words,
    where it is known.
    """

    schema_version: int
    name: str
    precision: str
    model: ModelShape
    cache_type: str
    amplification: Amplification | None
    sampling: Sampling
    classes: ClassList
    trace_outputs: bool
    graphs: dict[str, GraphSpec]
    static_scales: StaticScales | None
    members: dict[str, Member]
    producer: dict[str, str]
    parity: Parity | None
    quantization: Quantization | None = None
    license: str = ""

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise PlanError(f"{problem}; export the plan again")


def parse_manifest(text: str, source: str = "manifest.json") -> Manifest:
    """Read a manifest; a PlanError names the field that is missing, unknown, or of the wrong type."""
    try:
        values = parse_json(text)
        _check_version(values)
        manifest: Manifest = decode(Manifest, values)
    except (SchemaError, PlanError) as error:
        raise PlanError(f"{source}: {shortened(str(error), MESSAGE_LENGTH)}") from None
    except ValueError as error:
        raise PlanError(f"{source} is not valid JSON ({error}); export the plan again") from None
    return manifest


def manifest_json(manifest: Manifest) -> str:
    """The text that `parse_manifest` reads."""
    return json.dumps(encode(manifest), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file right inside its folder, on any system."""
    return (name not in ("", ".", "..") and not set(name) & set("/\\:\0")
            and len(name.encode(errors="replace")) <= NAME_LENGTH)


def _check_version(values: Any) -> None:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise PlanError(f"schema_version is {version}, newer than the {SCHEMA_VERSION} this hieramp reads; "
                        "upgrade with pip install -U hieramp")
    if type(version) is int and version != SCHEMA_VERSION:
        raise PlanError(f"schema_version must be {SCHEMA_VERSION}, got {version}; export the plan again")


def _problems(manifest: Manifest) -> Iterator[str]:
    if not is_plain_name(manifest.name):
        yield f"name must be usable as a file name, got {manifest.name!r}"
    if manifest.precision not in PRECISIONS:
        yield f"precision must be one of {', '.join(PRECISIONS)}, got {manifest.precision!r}"
    if manifest.cache_type not in CACHE_TYPES:
        yield f"cache_type must be one of {', '.join(CACHE_TYPES)}, got {manifest.cache_type!r}"
    yield from quantization_problems(manifest.precision, manifest.cache_type, manifest.quantization)
    yield from _model_problems(manifest.model)
    yield from size_problems(manifest.model)
    yield from _amplification_problems(manifest.amplification, manifest.model)
    yield from _sampling_problems(manifest.sampling, manifest.model)
    yield from _class_problems(manifest.classes, manifest.model)
    yield from _graph_problems(manifest)
    yield from _member_problems(manifest)


def _model_problems(model: ModelShape) -> Iterator[str]:
    sides, tokens = model.patch_sides, model.class_token_scales
    if not sides or sides[0] < 1 or any(a >= b for a, b in pairwise(sides)):
        yield f"model.patch_sides must grow from scale to scale, got {list(sides)}"
    sizes = ("vocab_size", "z_channels", "image_side", "depth", "width", "heads", "num_classes", "phi_count")
    for name in sizes:
        if getattr(model, name) < 1:
            yield f"model.{name} must be at least 1, got {getattr(model, name)}"
    if model.width % model.heads:
        yield f"model.width must be a multiple of model.heads, got {model.width} and {model.heads}"
    if model.image_side % model.latent_side:
        yield f"model.image_side must be a multiple of the last patch side {sides[-1]}, got {model.image_side}"
    if any(a >= b for a, b in pairwise(tokens)) or any(not 0 <= k < len(sides) for k in tokens):
        yield f"model.class_token_scales must be rising scales from 0 to {len(sides) - 1}, got {list(tokens)}"


def _amplification_problems(amplification: Amplification | None, model: ModelShape) -> Iterator[str]:
    if amplification is None:
        return
    for name, values in (("beta", amplification.beta), ("top_ratio", amplification.top_ratio)):
        if len(values) != model.scale_count:
            yield f"amplification.{name} must have {model.scale_count} values, one a scale, got {len(values)}"
    if any(not 0 <= block < model.depth for block in amplification.blocks):
        yield f"amplification.blocks must lie in 0 to {model.depth - 1}, got {list(amplification.blocks)}"
    if any(not 0 < ratio <= 1 for ratio in amplification.top_ratio):
        yield f"amplification.top_ratio must lie in (0, 1], got {list(amplification.top_ratio)}"
    for scale, beta in enumerate(amplification.beta):
        if beta != 0 and scale not in model.class_token_scales:
            yield f"amplification.beta[{scale}] must be 0 as scale {scale} has no class token, got {beta:g}"


def _sampling_problems(sampling: Sampling, model: ModelShape) -> Iterator[str]:
    if not 1 <= sampling.top_k <= model.vocab_size:
        yield f"sampling.top_k must be from 1 to {model.vocab_size}, got {sampling.top_k}"
    if not 0 < sampling.top_p <= 1:
        yield f"sampling.top_p must lie in (0, 1], got {sampling.top_p:g}"


def _class_problems(classes: ClassList, model: ModelShape) -> Iterator[str]:
    if classes.scheme not in CLASS_SCHEMES:
        yield f"classes.scheme must be one of {', '.join(CLASS_SCHEMES)}, got {classes.scheme!r}"
    if any(len(name) > NAME_LENGTH for name in classes.names):
        yield f"classes.names must have at most {NAME_LENGTH} characters each"
    named = 1000 if classes.scheme == "imagenet" else len(classes.names)
    if named != model.num_classes:
        yield f"classes names {named} classes where model.num_classes is {model.num_classes}"


def _graph_problems(manifest: Manifest) -> Iterator[str]:
    depth, class_tokens = manifest.model.depth, bool(manifest.model.class_token_scales)
    others = (ENCODER, *CUT, *FUSED.values())
    if set(manifest.graphs) - set(others) != set(GRAPH_NAMES):
        yield (f"graphs must be {', '.join(GRAPH_NAMES)} and perhaps {', '.join(others)}, "
               f"got {', '.join(manifest.graphs) or 'none'}")
    if len(cut := set(CUT) & set(manifest.graphs)) == 1:
        yield f"graphs must have both of {' and '.join(CUT)} or neither, got {cut.pop()} alone"
    for name, graph in manifest.graphs.items():
        inputs, outputs = {t.name for t in graph.inputs}, {t.name for t in graph.outputs}
        wanted = graph_inputs(name, depth, class_tokens, manifest.model.scale_count)
        if missing := wanted - inputs | graph_outputs(name, depth, manifest.trace_outputs) - outputs:
            yield f"graphs.{name} lacks {', '.join(sorted(missing))}"
        if unknown := inputs - wanted:
            yield f"graphs.{name} has inputs this runtime does not know: {', '.join(sorted(unknown))}"


def _member_problems(manifest: Manifest) -> Iterator[str]:
    for name in manifest.members:
        if not is_plain_name(name):
            yield f"members must be file names inside the plan folder, got {name!r}"
    static = manifest.static_scales.files if manifest.static_scales else ()
    for name in (WEIGHTS, *(graph.file for graph in manifest.graphs.values()), *static):
        if name not in manifest.members:
            yield f"members must list {name!r}"
