"""The manifest of a plan: its schema as frozen dataclasses, read strictly from and written to manifest.json."""

import json
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from hieramp.runtime.bounds import MESSAGE_LENGTH
from hieramp.runtime.errors import PlanError
from hieramp.runtime.json_file import parse_json
from hieramp.runtime.manifest_rules import manifest_problems
from hieramp.runtime.quantization import Quantization
from hieramp.runtime.schema import SchemaError, decode, encode
from hieramp.runtime.terminal import shortened

SCHEMA_VERSION = 2


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
        for problem in manifest_problems(self):
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


def _check_version(values: Any) -> None:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if type(version) is int and version > SCHEMA_VERSION:
        raise PlanError(f"schema_version is {version}, newer than the {SCHEMA_VERSION} this hieramp reads; "
                        "upgrade with pip install -U hieramp")
    if type(version) is int and version != SCHEMA_VERSION:
        raise PlanError(f"schema_version must be {SCHEMA_VERSION}, got {version}; export the plan again")
