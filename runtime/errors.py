"""Errors a user can cause, each naming the value at fault and the way out; a command prints one as a single line."""

from collections.abc import Sequence
from typing import Any


class HierampError(Exception):
    """Base of the errors a command reports on one line; `exit_code` 2 means that the request cannot be met."""

    exit_code = 2


class PlanError(HierampError):
    """A plan folder that is missing, damaged, or not what this runtime understands."""


class ClassSpecError(HierampError):
    """A choice of classes that names something the plan's model does not know."""


class SettingsError(HierampError):
    """A sampling or amplification setting that cannot be."""


class OutputError(HierampError):
    """An output folder that cannot be written or holds something else."""


class TeacherError(HierampError):
    """A teacher that is no classifier of these pictures, or whose classes are not proven to be the plan's."""


class ProviderError(HierampError):
    """An execution provider that is unknown, not installed, or does not start."""


class RunError(HierampError):
    """A run that failed on the way: what is written is whole, and the same command continues."""

    exit_code = 1


class NotFiniteError(RunError):
    """Logits, a latent or an image with NaN or infinity; `others` are the pictures of the batch without."""

    def __init__(self, message: str, others: Sequence[Any] = ()):
        super().__init__(message)
        self.others = tuple(others)


class StoppedError(HierampError):
    """A run that was asked to stop and did so after a batch; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
