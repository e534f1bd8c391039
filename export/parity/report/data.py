"""A comparison as JSON values: what was compared, the verdict, every figure with its bound."""

import math
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from hieramp.export.parity.comparison import Comparison
from hieramp.export.parity.facts import Facts
from hieramp.export.parity.figures import Figure

REPORT_VERSION = 1


def comparison_data(found: Comparison) -> dict[str, Any]:
    """The whole comparison, pictures left out."""
    failure = found.failure
    return {
        "report_version": REPORT_VERSION,
        "hieramp": version("hieramp"),
        "passed": failure is None,
        "first_failure": _figure(failure) if failure else None,
        "plan": side_data(found.plan),
        "reference": side_data(found.reference),
        "backend": found.choice.backend if found.choice else None,
        "provider": found.choice.provider if found.choice else None,
        "backend_choice": found.choice.sentence if found.choice else None,
        "images": found.images,
        "traced": found.traced,
        "decoder_alone": found.decoder_alone,
        "limits": asdict(found.limits),
        "figures": [_figure(figure) for figure in found.figures],
    }


def side_data(facts: Facts) -> dict[str, Any]:
    """What identifies a side."""
    return {"name": facts.name, "kind": facts.kind, "precision": facts.precision, "digest": facts.digest,
            "patch_sides": list(facts.model.patch_sides), "settings": asdict(facts.settings)}


def _figure(figure: Figure) -> dict[str, Any]:
    values = {"value": _number(figure.value), "bound": _number(figure.bound)}
    return asdict(figure) | values | {"passed": figure.passed}


def _number(value: float | None) -> float | None:
    """JSON has no word for what is not finite."""
    return value if value is not None and math.isfinite(value) else None
