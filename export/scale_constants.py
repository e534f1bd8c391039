"""The constant tensors of each scale, stored beside the weights as `scale.KK.*` (shapes: docs/plan-format.md)."""

import torch
from torch import Tensor

from hieramp.runtime.contract import scale_key
from hieramp_ref.quantizer import phi_index
from hieramp_ref.resize import downsample_matrix_lP, upsample_matrix_Pl
from hieramp_ref.spec import ModelSpec
from hieramp_ref.var import Var


def scale_constants(var: Var) -> dict[str, Tensor]:
    """All of them by key, float32."""
    constants: dict[str, Tensor] = {}
    for k in range(var.spec.scale_count):
        constants |= {scale_key(k, name): tensor.float().contiguous() for name, tensor in _of_scale(var, k).items()}
    return constants


def encoder_constants(spec: ModelSpec) -> dict[str, Tensor]:
    """What the encoder takes beside them: the area map to scale 0, [l_0, P²]."""
    return {scale_key(0, "downsample"): downsample_matrix_lP(spec.patch_sides[0], spec.vqvae.latent_side).clone()}


def _of_scale(var: Var, scale: int) -> dict[str, Tensor]:
    spec, P = var.spec, var.spec.vqvae.latent_side
    select_F = torch.zeros(spec.vqvae.phi_count)
    select_F[phi_index(scale, spec.scale_count, spec.vqvae.phi_count)] = 1
    tensors = {"phi_select": select_F, "upsample": upsample_matrix_Pl(spec.patch_sides[scale], P)}
    if scale + 1 < spec.scale_count:
        tensors["downsample_next"] = downsample_matrix_lP(spec.patch_sides[scale + 1], P)
        tensors["position_next"] = var.position_lC(scale + 1)
    else:
        tensors |= {"downsample_next": torch.zeros(1, P * P), "position_next": torch.zeros(1, spec.var.width)}
    if str(scale) in var.cls_tokens:
        tensors["class_token"] = var.cls_tokens[str(scale)][0]
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
