"""Soft labels that a run stored beside its pictures: a teacher's logits of each whole picture."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, softmax

from hieramp_ref.errors import DataError
from hieramp_ref.students.augmentation import MixedBatch
from hieramp_ref.students.datasets import LabelledImages
from hieramp_ref.students.settings import digest as digest_of

_FILES = "soft-[0-9]*.npy"


@dataclass(frozen=True)
class StoredLabels:
    """Logits [N, V] of the training images, in their order, by label."""

    logits_NV: Tensor

    def to(self, device: str) -> "StoredLabels":
        return StoredLabels(self.logits_NV.to(device))

    @property
    def digest(self) -> str:
        return digest_of(self.logits_NV)

    def targets(self, batch: MixedBatch, temperature: float) -> Tensor:
        """Distributions [B, V] of mixed images, each of both pictures by their shares of the pixels.

        The labels of `batch` are numbers of images here, not of classes.
        """
        share_B1, softened_NV = batch.share_B[:, None], softmax(self.logits_NV / temperature, dim=1)
        return share_B1 * softened_NV[batch.label_B] + (1 - share_B1) * softened_NV[batch.other_B]


def read_stored_labels(folder: Path, train: LabelledImages) -> StoredLabels:
    """The soft labels of a dataset in folders, a row an image of `train`, whose classes they are by label."""
    files = sorted(folder.glob(_FILES))
    if not files:
        raise DataError(f"{folder} holds no soft labels ({_FILES}): make the dataset with hieramp-run --teacher, in "
                        "--format folder or rded")
    parts = [_read(file) for file in files]
    if len({part.shape[1:] for part in parts}) > 1:
        raise DataError(f"soft labels of {folder} do not fit each other: {[part.shape for part in parts]}")
    logits_NV = torch.from_numpy(np.concatenate(parts))
    wanted = (len(train.images), len(train.classes))
    if logits_NV.shape != wanted:
        raise DataError(f"soft labels of {folder} are {tuple(logits_NV.shape)}, its pictures and classes {wanted}")
    return StoredLabels(logits_NV)


def _read(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as stream:
            return np.atleast_1d(np.lib.format.read_array(stream)).astype(np.float32)
    except (OSError, TypeError, ValueError) as error:
        raise DataError(f"soft labels {file} cannot be read ({error}): make the dataset again") from error


def stored_loss(student_BV: Tensor, stored: StoredLabels, batch: MixedBatch, temperature: float) -> Tensor:
    """KL divergence from the stored to the student's distribution, both at the temperature, mean over the batch."""
    target_BV = stored.targets(batch, temperature)
    return kl_div(log_softmax(student_BV / temperature, dim=1), target_BV, reduction="batchmean")
