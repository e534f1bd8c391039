"""Errors a user can cause, each naming the value at fault and the way out; a command prints one as a single line."""


class HierampError(Exception):
    """Base of the errors a command reports on one line with exit code 2."""


class PlanError(HierampError):
    """A plan folder that is missing, damaged, or not what this runtime understands."""


class ClassSpecError(HierampError):
    """A choice of classes that names something the plan's model does not know."""


class SettingsError(HierampError):
    """A sampling or amplification setting that cannot be."""


class OutputError(HierampError):
    """An output folder that cannot be written or holds something else."""


class ProviderError(HierampError):
    """An execution provider that is unknown, not installed, or does not start."""
