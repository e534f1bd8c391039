"""What a model is: frozen configuration of the VQVAE and of the VAR transformer, with everything derivable derived."""

import json
import math
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

from hieramp_ref.errors import SpecError

SIDES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SIDES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)


@dataclass(frozen=True)
class VqvaeSpec:
    """The multi-scale tokenizer (defaults: the published 256-pixel VQVAE).

    `patch_sides` holds the patches a side of every scale; `share_quant_resi` is 0 for one phi a scale,
    1 for one phi in all, n for n of them shared by nearest tick.
    """

    vocab_size: int = 4096
    z_channels: int = 32
    channels: int = 160
    channel_multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    residual_blocks: int = 2
    norm_groups: int = 32
    share_quant_resi: int = 4
    patch_sides: tuple[int, ...] = SIDES_256

    def __post_init__(self) -> None:
        _require_positive(self, "vocab_size", "z_channels", "channels", "residual_blocks", "norm_groups")
        if not self.channel_multipliers or min(self.channel_multipliers) < 1:
            raise SpecError(f"channel_multipliers must be whole numbers from 1, got {self.channel_multipliers}")
        if any(self.channels * m % self.norm_groups for m in self.channel_multipliers):
            raise SpecError(f"norm_groups must divide channels times every multiplier, got {self.norm_groups} "
                            f"for {self.channels} times {self.channel_multipliers}")
        if not self.patch_sides or any(a >= b for a, b in pairwise((0, *self.patch_sides))):
            raise SpecError(f"patch_sides must grow from scale to scale, from 1 on, got {self.patch_sides}")
        if self.share_quant_resi < 0:
            raise SpecError(f"share_quant_resi must be 0, 1 or more, got {self.share_quant_resi}")

    @property
    def downsampling(self) -> int:
        """Pixels a latent position covers in each direction."""
        return int(2 ** (len(self.channel_multipliers) - 1))

    @property
    def latent_side(self) -> int:
        return self.patch_sides[-1]

    @property
    def image_side(self) -> int:
        """Pixels a side of the image."""
        return self.latent_side * self.downsampling

    @property
    def phi_count(self) -> int:
        return self.share_quant_resi or len(self.patch_sides)


@dataclass(frozen=True)
class VarSpec:
    """The next-scale transformer (defaults: VAR-d16). `width` and `heads` follow the depth unless given."""

    depth: int = 16
    width: int = 0
    heads: int = 0
    num_classes: int = 1000
    mlp_ratio: float = 4.0
    norm_eps: float = 1e-6
    shared_adaln: bool = False
    qk_l2_norm: bool = True
    class_token_scales: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require_positive(self, "depth", "num_classes")
        object.__setattr__(self, "width", self.width or 64 * self.depth)
        object.__setattr__(self, "heads", self.heads or self.depth)
        _require_positive(self, "width", "heads")
        _require_positive_number(self, "mlp_ratio", "norm_eps")
        if self.width % self.heads:
            raise SpecError(f"width must be a multiple of heads, got width {self.width} and heads {self.heads}")

    @property
    def head_width(self) -> int:
        return self.width // self.heads

    @property
    def mlp_width(self) -> int:
        return round(self.width * self.mlp_ratio)


@dataclass(frozen=True)
class ModelSpec:
    """A whole generator: tokenizer and transformer."""

    vqvae: VqvaeSpec
    var: VarSpec

    def __post_init__(self) -> None:
        beyond = [k for k in self.var.class_token_scales if not 0 <= k < len(self.vqvae.patch_sides)]
        if beyond:
            raise SpecError(f"class_token_scales must lie in 0..{len(self.vqvae.patch_sides) - 1}, got {beyond}")

    @property
    def patch_sides(self) -> tuple[int, ...]:
        return self.vqvae.patch_sides

    @property
    def scale_count(self) -> int:
        return len(self.patch_sides)

    @property
    def scale_tokens(self) -> tuple[int, ...]:
        """Tokens of every scale, l_k = p_k squared."""
        return tuple(p * p for p in self.patch_sides)

    @property
    def token_count(self) -> int:
        """Tokens of all scales together, L."""
        return sum(self.scale_tokens)

    def token_range(self, scale: int) -> tuple[int, int]:
        """First token of a scale and the one past its last, in the order of generation."""
        begin = sum(self.scale_tokens[:scale])
        return begin, begin + self.scale_tokens[scale]

    @classmethod
    def from_json(cls, path: Path) -> "ModelSpec":
        """Read a configuration file, in this project's words or in the published ones (see the golden traces)."""
        try:
            values = json.loads(path.read_text())
            if not isinstance(values, dict):
                raise TypeError(f"it holds a {type(values).__name__}, expected an object")
            return cls.from_dict(values)
        except (OSError, ValueError, TypeError) as error:
            raise SpecError(f"{path} is no model configuration: {error}") from error

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "ModelSpec":
        """Build from flat key-value pairs; a key that is not known is named."""
        known = {_PUBLISHED_WORDS.get(key, key): _as_tuple(value) for key, value in values.items()}
        vqvae = {f.name: known.pop(f.name) for f in fields(VqvaeSpec) if f.name in known}
        var = {f.name: known.pop(f.name) for f in fields(VarSpec) if f.name in known}
        if known:
            raise SpecError(f"unknown model setting {sorted(known)}; known are "
                            f"{sorted(f.name for c in (VqvaeSpec, VarSpec) for f in fields(c))}")
        return cls(VqvaeSpec(**vqvae), VarSpec(**var))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, object]:
        """The flat key-value pairs that `from_dict` reads."""
        return asdict(self.vqvae) | asdict(self.var)


_PUBLISHED_WORDS = {
    "ch": "channels", "ch_mult": "channel_multipliers", "patch_nums": "patch_sides", "embed_dim": "width",
    "num_heads": "heads", "shared_aln": "shared_adaln", "attn_l2_norm": "qk_l2_norm",
}


def _require_positive(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not isinstance(value, int) or value < 1:
            raise SpecError(f"{name} must be a whole number from 1, got {value!r}")


def _require_positive_number(spec: object, *names: str) -> None:
    for name in names:
        value = getattr(spec, name)
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise SpecError(f"{name} must be a positive number, got {value!r}")


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
