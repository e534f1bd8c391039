"""8-bit plans of the tiny model, exported once each."""

from collections.abc import Callable
from functools import cache

import pytest

from hieramp.export.model_source import LoadedModel
from hieramp.runtime import Plan


@pytest.fixture(scope="session")
def eight_bit_plan(tiny: LoadedModel, export: Callable[..., Plan],
                   tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Plan]:
    """The plan of a precision and a base precision, with trace outputs and a float decoder; not to be changed."""
    @cache
    def plan(precision: str, base_precision: str) -> Plan:
        folder = tmp_path_factory.mktemp("eight") / "tiny.plan"
        return export(tiny, folder, precision=precision, base_precision=base_precision, calibration_images=10,
                      trace_outputs=True, decoder="float")

    return plan


@pytest.fixture(scope="session")
def int8_decoder_plan(tiny: LoadedModel, export: Callable[..., Plan],
                      tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Plan]:
    """The int8 plan of a base precision, with all convolutions between the first and the last quantized."""
    @cache
    def plan(base_precision: str) -> Plan:
        return export(tiny, tmp_path_factory.mktemp("decoder") / "tiny.plan", precision="int8", decoder="int8",
                      base_precision=base_precision, calibration_images=32, decoder_psnr=0)

    return plan
