"""Errors of the reference, each naming the value at fault and the way out."""


class HierampError(Exception):
    """Base of every error a user can cause; a command prints it on one line and exits with `exit_code`."""

    exit_code = 2


class SpecError(HierampError):
    """A model, amplification or sampling setting that cannot be."""


class CheckpointError(HierampError):
    """A checkpoint that cannot be read or does not fit the model."""


class DataError(HierampError):
    """Training data that is missing or cannot be read."""


class RunError(HierampError):
    """A run that failed on the way: what is written is whole."""

    exit_code = 1


class StoppedError(HierampError):
    """A run that a signal stopped; the exit code is 128 + the signal's number."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number
