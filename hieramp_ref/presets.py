"""Models by name: the published VAR family and the 32-pixel model that ships."""

from hieramp_ref.errors import SpecError
from hieramp_ref.spec import SIDES_256, SIDES_512, ModelSpec, VarSpec, VqvaeSpec


def _var(depth: int, sides: tuple[int, ...], *, shared_adaln: bool = False) -> ModelSpec:
    every_scale = tuple(range(len(sides)))
    return ModelSpec(
        VqvaeSpec(patch_sides=sides),
        VarSpec(depth=depth, shared_adaln=shared_adaln, class_token_scales=every_scale),
    )


PRESETS: dict[str, ModelSpec] = {
    "var_d16": _var(16, SIDES_256),
    "var_d20": _var(20, SIDES_256),
    "var_d24": _var(24, SIDES_256),
    "var_d30": _var(30, SIDES_256),
    "var_d36": _var(36, SIDES_512, shared_adaln=True),
    "var_cifar10": ModelSpec(
        VqvaeSpec(
            vocab_size=1024, z_channels=16, channels=48, channel_multipliers=(1, 2, 2), residual_blocks=1,
            norm_groups=16, patch_sides=(1, 2, 3, 4, 6, 8),
        ),
        VarSpec(depth=6, width=256, heads=4, num_classes=10, class_token_scales=(0, 1, 2, 3, 4, 5)),
    ),
}


def preset(name: str) -> ModelSpec:
    """The model of that name."""
    if name not in PRESETS:
        raise SpecError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name]
