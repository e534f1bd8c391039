"""Optimizers: AdamW for all parameters, or Muon for the transformer's matrices and AdamW for the rest."""

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.05
# Besides all vectors: embeddings, class tokens, and scales that have the shape of a matrix only to broadcast.
NOT_DECAYED = ("embedding", "class_emb", "lvl_embed", "pos_", "cls_tokens", "scale_mul", "ada_gss")


def adamw(named: Iterable[tuple[str, nn.Parameter]]) -> AdamW:
    """AdamW; matrices and kernels decay, vectors and embeddings do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named:
        decays = parameter.ndim > 1 and not any(part in name for part in NOT_DECAYED)
        (decayed if decays else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": kept, "weight_decay": 0.0}]
    return AdamW([group for group in groups if group["params"]], betas=BETAS)


def is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix of a block's attention or feed-forward network (not AdaLN)."""
    return parameter.ndim == 2 and name.startswith("blocks.") and (".attn." in name or ".ffn." in name)


def muon_and_adamw(model: nn.Module) -> list[Optimizer]:
    """Muon, its update scaled to AdamW's size so that one learning rate serves both, and AdamW for the rest."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if is_block_matrix(name, p)]
    rest = [(name, p) for name, p in named if not is_block_matrix(name, p)]
    return [Muon(matrices, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"), adamw(rest)]


def optimizers(model: nn.Module, kind: str) -> list[Optimizer]:
    """The optimizers of a kind, `muon` or `adamw`; the loop sets their learning rate."""
    return muon_and_adamw(model) if kind == "muon" else [adamw(model.named_parameters())]
