"""Attention written out for training on a CPU, where the fused bf16 kernel's backward pass takes four times as long."""

from functools import partial

import torch
from torch import Tensor

from hieramp_ref.transformer import KeysValues, SelfAttention
from hieramp_ref.var import Var


def attend_plainly(attention: SelfAttention, q_RHnD: Tensor, kv: KeysValues, bias: Tensor | None) -> Tensor:
    """What `SelfAttention.attend` computes, as two matrix products with a float32 softmax between them."""
    logits_RHnm = (q_RHnD @ kv.k_RHnD.transpose(-1, -2)).float()
    if bias is not None:
        logits_RHnm = logits_RHnm + bias
    out_RHnD = torch.softmax(logits_RHnm, dim=-1).to(kv.v_RHnD.dtype) @ kv.v_RHnD
    projected: Tensor = attention.proj(out_RHnD.transpose(1, 2).flatten(2))
    return projected


def use_plain_attention(model: Var) -> Var:
    """The model with its attention replaced; weights and results stay, copies of the model keep it."""
    for attention in (module for module in model.modules() if isinstance(module, SelfAttention)):
        attention.attend = partial(attend_plainly, attention)  # type: ignore[method-assign]
    return model
