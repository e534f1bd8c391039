"""Stage 3, HierAmp's fine-tuning: class tokens and one linear classifier join a trained VAR, all weights train.

Loss = token cross-entropy + λ · mean over class-token scales of −log p(class | c_k), λ = 1. The label is dropped with
probability 0.1 for conditioning, never for the classifier (paper, training objective).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hieramp_ref.checkpoint import load_var, with_class_tokens
from hieramp_ref.errors import SpecError
from hieramp_ref.spec import ModelSpec
from hieramp_ref.training.draws import generator
from hieramp_ref.training.state import Record, TrainState
from hieramp_ref.training.var import VarStage, by_scale, mean_over_tokens, required, scale_losses
from hieramp_ref.var import Var

CLASS_LOSS_WEIGHT = 1.0
TOKEN_STD = 0.02


def with_new_class_tokens(plain: Var, spec: ModelSpec, seed: int) -> Var:
    """A VAR's weights with fresh class tokens and classifier; those that it has are kept where the scales agree."""
    scales = spec.var.class_token_scales
    if plain.spec.var.class_token_scales == scales:
        return plain
    var = Var(with_class_tokens(spec, scales))
    draws = generator(seed, "class tokens", 0)
    with torch.no_grad():
        for parameter in (*var.cls_tokens.values(), var.class_head.weight):
            nn.init.trunc_normal_(parameter, std=TOKEN_STD, generator=draws)
        nn.init.zeros_(var.class_head.bias)
    kept = {k: v for k, v in plain.state_dict().items() if not k.startswith(("cls_tokens.", "class_head."))}
    var.load_state_dict(kept, strict=False)
    return var


class HierampStage(VarStage):
    """The VAR stage with class tokens and their classification loss."""

    name = "hieramp"

    def build_model(self) -> Var:
        settings = self.settings
        if not settings.spec.var.class_token_scales:
            raise SpecError("class_token_scales of the model is empty: the hieramp stage trains class tokens")
        if settings.init and settings.var:
            raise SpecError(f"give one of --init and --var, this stage starts from either: got {settings.init} and "
                            f"{settings.var}")
        start = settings.init or required(settings.var, "var")
        return with_new_class_tokens(load_var(start, settings.spec), settings.spec, settings.seed)

    def forward(self, model: Var, labels_B: Tensor, maps_BLz: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of tokens [B, L, V] and of classes [B, K_c, classes], in float32."""
        run = self.forward_train_class_tokens if model is self.model else model.forward_train_class_tokens
        with self.settings.autocast(self.device):
            logits_BLV, features_BKC = run(labels_B, maps_BLz)
        return logits_BLV.float(), model.class_head(features_BKC.float())

    def loss(self, step: int, state: TrainState) -> tuple[Tensor, dict[str, Tensor]]:
        batch = self.batch(step)
        logits_BLV, class_logits_BKn = self.forward(self.model, self.dropped(batch.labels_B, step), batch.maps_BLz)
        losses_K = scale_losses(logits_BLV, batch.tokens_BL, self.settings.spec)
        class_losses_K = class_losses(class_logits_BKn, batch.labels_B)
        token_loss, class_loss = mean_over_tokens(losses_K, self.settings.spec), class_losses_K.mean()
        figures = {"tokens": token_loss.detach(), "class": class_loss.detach()}
        accuracies = self.numbered("accuracy", class_accuracies(class_logits_BKn.detach(), batch.labels_B))
        return token_loss + CLASS_LOSS_WEIGHT * class_loss, figures | accuracies

    def numbered(self, name: str, values_K: Tensor) -> dict[str, Tensor]:
        """Values of the class-token scales under the scales' numbers."""
        return {f"{name}_{k}": v for k, v in zip(self.settings.spec.var.class_token_scales, values_K, strict=True)}

    @torch.no_grad()
    def validate(self, model: nn.Module) -> Record:
        """Token cross-entropy and the classifier's accuracy a scale: with the label given, and with it withheld."""
        assert isinstance(model, Var)
        spec, rows = self.settings.spec, []
        for batch in self.held_out():
            logits_BLV, class_logits_BKn = self.forward(model, batch.labels_B, batch.maps_BLz)
            unlabelled_B = torch.full_like(batch.labels_B, spec.var.num_classes)
            _, blind_BKn = self.forward(model, unlabelled_B, batch.maps_BLz)
            losses_K = scale_losses(logits_BLV, batch.tokens_BL, spec)
            class_loss = class_losses(class_logits_BKn, batch.labels_B).mean()
            token_loss = mean_over_tokens(losses_K, spec)
            figures = {"val_loss": token_loss + CLASS_LOSS_WEIGHT * class_loss, "val_tokens": token_loss,
                       "val_class": class_loss}
            figures |= by_scale("val_scale", losses_K)
            figures |= self.numbered("val_accuracy", class_accuracies(class_logits_BKn, batch.labels_B))
            figures |= self.numbered("val_blind_accuracy", class_accuracies(blind_BKn, batch.labels_B))
            rows.append((len(batch.labels_B), figures))
        return weighted_means(rows)


def class_losses(class_logits_BKn: Tensor, labels_B: Tensor) -> Tensor:
    """−log p(class | c_k), the mean over images, [K_c]."""
    labels_BK = labels_B[:, None].expand(class_logits_BKn.shape[:2])
    return cross_entropy(class_logits_BKn.transpose(1, 2), labels_BK, reduction="none").mean(0)


def class_accuracies(class_logits_BKn: Tensor, labels_B: Tensor) -> Tensor:
    """Share of images that each class token's prediction gets right, [K_c]."""
    return (class_logits_BKn.argmax(-1) == labels_B[:, None]).float().mean(0)


def weighted_means(rows: list[tuple[int, dict[str, Tensor]]]) -> Record:
    """Means of figures of chunks, each weighted with its number of images."""
    total = sum(count for count, _ in rows)
    return {name: sum(count * float(figures[name]) for count, figures in rows) / total for name in rows[0][1]}
