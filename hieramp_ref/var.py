"""VAR with HierAmp's class tokens: one coarse-to-fine step, and the teacher-forced pass that trains it.

Parameter names follow the published checkpoints. Caches, labels and settings are arguments; the module holds weights.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hieramp_ref.amplification import ScaleAmplification, saliency_bias, saliency_map
from hieramp_ref.spec import ModelSpec
from hieramp_ref.transformer import Block, KeysValues, modulated_norm


class Modulation(NamedTuple):
    """AdaLN vectors that depend on the class alone: of the blocks [R, d, 6, C] and of the head [R, 2, C]."""

    blocks_Rd6C: Tensor
    head_R2C: Tensor


class StepOutput(NamedTuple):
    """Logits [R, l, V], the caches of every block including this scale, and a saliency map [R, l] a block amplified."""

    logits_RlV: Tensor
    caches: list[KeysValues]
    saliency: dict[int, Tensor]


class _Head(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class Var(nn.Module):
    """The next-scale transformer over the tokens of a `Vqvae` of the same `ModelSpec`."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        var, C = spec.var, spec.var.width
        self.spec = spec
        self.word_embed = nn.Linear(spec.vqvae.z_channels, C)
        self.class_emb = nn.Embedding(var.num_classes + 1, C)
        self.pos_start = nn.Parameter(torch.empty(1, spec.scale_tokens[0], C))
        self.pos_1LC = nn.Parameter(torch.empty(1, spec.token_count, C))
        self.lvl_embed = nn.Embedding(spec.scale_count, C)
        if var.shared_adaln:
            self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(C, 6 * C))
        self.blocks = nn.ModuleList(Block(var) for _ in range(var.depth))
        self.head_nm = _Head(C)
        self.head = nn.Linear(C, spec.vqvae.vocab_size)
        self.cls_tokens = nn.ParameterDict({str(k): torch.empty(1, 1, C) for k in var.class_token_scales})
        if var.class_token_scales:
            self.class_head = nn.Linear(C, var.num_classes)

    def _typed_blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator) -> None:
        """Initialise for training: truncated normals, small AdaLN, depth-scaled residual projections."""
        std = math.sqrt(1 / self.spec.var.width / 3)
        for name, parameter in self.named_parameters():
            if name.endswith("scale_mul_1H11"):
                continue
            if name.endswith("bias") or name.endswith("ada_gss"):
                parameter.zero_()
            else:
                nn.init.trunc_normal_(parameter, std=std, generator=generator)
        for block in self._typed_blocks():
            block.attn.proj.weight.div_(math.sqrt(2 * self.spec.var.depth))
            block.ffn.fc2.weight.div_(math.sqrt(2 * self.spec.var.depth))
        for name, parameter in self.named_parameters():
            if "ada_lin" in name and name.endswith("bias") and name.startswith("blocks"):
                parameter.unflatten(0, (6, -1))[:2].fill_(0.5)  # the residual branches start half open

    def modulation(self, labels_R: Tensor) -> Modulation:
        """AdaLN vectors of class labels; `num_classes` is the unconditional label."""
        condition_RC = self.class_emb(labels_R)
        shared_R6C = None
        if self.spec.var.shared_adaln:
            shared_R6C = self.shared_ada_lin(condition_RC).unflatten(1, (6, -1))
        blocks = [block.modulation(condition_RC, shared_R6C) for block in self._typed_blocks()]
        head_R2C = self.head_nm.ada_lin(condition_RC).unflatten(1, (2, -1)).float()
        return Modulation(torch.stack(blocks, dim=1), head_R2C)

    def position_lC(self, scale: int) -> Tensor:
        """Position plus level embedding of one scale."""
        begin, end = self.spec.token_range(scale)
        return self.pos_1LC[0, begin:end] + self.lvl_embed.weight[scale]

    def first_map(self, labels_R: Tensor) -> Tensor:
        """Token map of scale 0, [R, l_0, C]."""
        class_R1C: Tensor = self.class_emb(labels_R).unsqueeze(1)
        return class_R1C + self.pos_start + self.position_lC(0)

    def next_map(self, scale: int, pooled_Blz: Tensor) -> Tensor:
        """Token map [B, l, C] of a scale after the first, from f_hat area-downsampled to it."""
        words_BlC: Tensor = self.word_embed(pooled_Blz).float()
        return words_BlC + self.position_lC(scale)

    def step(
        self, scale: int, token_map_RlC: Tensor, modulation: Modulation, caches: list[KeysValues] | None,
        amplification: dict[int, ScaleAmplification] | None = None, *, class_tokens: bool = True,
    ) -> StepOutput:
        """Logits of one scale, given the caches of all before it (None at the first).

        `amplification` maps block indices to what they do at this scale; it needs a class token there.
        """
        l, amplification, saliency = token_map_RlC.shape[1], amplification or {}, {}
        x_RnC, new_caches = token_map_RlC, []
        carries_token = class_tokens and str(scale) in self.cls_tokens
        if carries_token:
            x_RnC = torch.cat([x_RnC, self.cls_tokens[str(scale)].expand(len(x_RnC), -1, -1)], dim=1)
        for i, block in enumerate(self._typed_blocks()):
            adaln_R6C = modulation.blocks_Rd6C[:, i]
            q_RHnD, kv = block.attn.queries(block.normed(x_RnC, adaln_R6C))
            spatial = kv.first(l)
            past = caches[i].k_RHnD.shape[2] if caches else 0
            bias = _class_query_mask(l, past, q_RHnD.device) if carries_token and past else None
            if carries_token and i in amplification:
                saliency[i] = saliency_map(q_RHnD[:, :, l:], spatial.k_RHnD)
                raised = nn.functional.pad(saliency_bias(saliency[i], amplification[i]), (past, 1))
                bias = raised.expand(-1, -1, l + 1, -1) if bias is None else bias + raised
            attended_RnC = block.attn.attend(q_RHnD, caches[i].append(kv) if caches else kv, bias)
            new_caches.append(caches[i].append(spatial) if caches else spatial)
            x_RnC = block.residual(x_RnC, attended_RnC, adaln_R6C)
        return StepOutput(self.logits(x_RnC[:, :l], modulation), new_caches, saliency)

    def logits(self, x_RnC: Tensor, modulation: Modulation) -> Tensor:
        """Head output in float32, [R, n, V]."""
        scale_RC, shift_RC = modulation.head_R2C.unbind(1)
        with torch.autocast(x_RnC.device.type, enabled=False):
            logits_RnV: Tensor = self.head(modulated_norm(x_RnC, scale_RC, shift_RC, self.spec.var.norm_eps))
        return logits_RnV

    def forward_train(self, labels_B: Tensor, maps_BLz: Tensor) -> Tensor:
        """Teacher-forced logits [B, L, V] without class tokens; `maps_BLz` as of `teacher_maps`."""
        levels_L = self._levels(labels_B.device)
        mask_LL = levels_L[:, None] >= levels_L[None, :]
        modulation = self.modulation(labels_B)
        x_BLC, _ = self._masked_blocks(self._teacher_input(labels_B, maps_BLz), modulation, mask_LL)
        return self.logits(x_BLC, modulation)

    def forward_train_class_tokens(self, labels_B: Tensor, maps_BLz: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher-forced logits [B, L, V], and the last attention's output at every class token, [B, K_c, C]."""
        modulation, L = self.modulation(labels_B), self.spec.token_count
        tokens_1KC = torch.cat([self.cls_tokens[str(k)] for k in self.spec.var.class_token_scales], dim=1)
        x_BnC = torch.cat([self._teacher_input(labels_B, maps_BLz), tokens_1KC.expand(len(labels_B), -1, -1)], dim=1)
        mask_nn = class_token_mask(self._levels(labels_B.device), self.spec.var.class_token_scales)
        x_BnC, attended_BnC = self._masked_blocks(x_BnC, modulation, mask_nn)
        return self.logits(x_BnC[:, :L], modulation), attended_BnC[:, L:]

    def _levels(self, device: torch.device) -> Tensor:
        counts = torch.tensor(self.spec.scale_tokens, device=device)
        return torch.arange(self.spec.scale_count, device=device).repeat_interleave(counts)

    def _teacher_input(self, labels_B: Tensor, maps_BLz: Tensor) -> Tensor:
        positions_LC = torch.cat([self.position_lC(k) for k in range(self.spec.scale_count)])
        start_BlC = self.class_emb(labels_B).unsqueeze(1) + self.pos_start
        return torch.cat([start_BlC, self.word_embed(maps_BLz).float()], dim=1) + positions_LC

    def _masked_blocks(self, x_BnC: Tensor, modulation: Modulation, mask_nn: Tensor) -> tuple[Tensor, Tensor]:
        attended_BnC = x_BnC
        bias_nn = torch.zeros(mask_nn.shape, device=x_BnC.device).masked_fill(~mask_nn, -torch.inf)
        for i, block in enumerate(self._typed_blocks()):
            adaln_B6C = modulation.blocks_Rd6C[:, i]
            q_BHnD, kv = block.attn.queries(block.normed(x_BnC, adaln_B6C))
            attended_BnC = block.attn.attend(q_BHnD, kv, bias_nn)
            x_BnC = block.residual(x_BnC, attended_BnC, adaln_B6C)
        return x_BnC, attended_BnC


def class_token_mask(levels_L: Tensor, class_token_scales: tuple[int, ...]) -> Tensor:
    """Training mask [L + K_c, L + K_c], True where a query (row) may look.

    Spatial tokens see their own and earlier scales and their own scale's class token; a class token sees its own scale
    and itself (method, "Training").
    """
    of_token_K = torch.tensor(class_token_scales, device=levels_L.device)
    spatial_LL = levels_L[:, None] >= levels_L[None, :]
    to_token_LK = levels_L[:, None] == of_token_K[None, :]
    own_KK = torch.eye(len(of_token_K), dtype=torch.bool, device=levels_L.device)
    return torch.cat([torch.cat([spatial_LL, to_token_LK], 1), torch.cat([to_token_LK.T, own_KK], 1)])


def _class_query_mask(l: int, past: int, device: torch.device) -> Tensor:
    """Bias [1, 1, l + 1, past + l + 1] that keeps the class token's query, the last row, to its own scale."""
    bias_nm = torch.zeros(l + 1, past + l + 1, device=device)
    bias_nm[l, :past] = -torch.inf
    return bias_nm[None, None]
