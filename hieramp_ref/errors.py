"""Errors of the reference, each naming the value at fault and the way out."""


class HierampError(Exception):
    """Base of every error a user can cause; a command prints it on one line and exits with 2."""


class SpecError(HierampError):
    """A model, amplification or sampling setting that cannot be."""


class CheckpointError(HierampError):
    """A checkpoint that cannot be read or does not fit the model."""


class DataError(HierampError):
    """Training data that is missing or cannot be read."""
