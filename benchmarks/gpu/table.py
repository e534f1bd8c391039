"""The rows of `gpu_check.py` as a Markdown table: figures, or why there are none."""

from collections.abc import Sequence
from typing import Any

from recording.markdown import table as markdown_table
from recording.record import show_spread

Figures = dict[str, Any]
_HEADER = ["what", "batch", "images a second", "× reference", "of ceiling", "of bandwidth", "of roofline",
           "GPU memory, GB", "build, s", "logits off by (bound)", "equal draws", "free", "PSNR, dB", "note"]


def table(rows: Sequence[Figures]) -> str:
    """Speed and kernels, a line each, and every row that has a reason instead; parity alone has no line."""
    return markdown_table(_HEADER, [line(found, rows) for found in rows
                                    if "not_run" in found or found["what"] in ("speed", "kernel")])


def line(found: Figures, rows: Sequence[Figures]) -> list[str]:
    """A row's cells."""
    head = [_name(found), str(found.get("batch") or "")]
    if "not_run" in found:
        return [*head, *[""] * (len(_HEADER) - 3), f"not run: {found['not_run']}"]
    if found["what"] == "kernel":
        return [*head, "", "", "", f"{found['roofline']:.0%}", *[""] * 4, f"{found['equal_share']:.1%}", "", "",
                f"{show_spread(found['kernel_ms'], 3)} ms, reference {show_spread(found['reference_ms'], 3)} ms"]
    base = _reference_rate(found, rows)
    memory, build = found.get("device_peak_bytes"), found.get("build_seconds")
    return [
        *head, show_spread(found["images_per_second"], 2),
        f"{found['images_per_second']['median'] / base:.2f}" if base else "",
        *(f"{found[name]:.0%}" if name in found else "" for name in ("ceiling_share", "bandwidth_share",
                                                                     "roofline_share")),
        "" if memory is None else f"{memory / 1e9:.2f}", "" if build is None else f"{build:.0f}",
        *_parity(found["parity"]), "; ".join(found["notes"]),
    ]


def _name(found: Figures) -> str:
    tokens = f" {found['tokens']} tokens" if "tokens" in found else ""
    return found["subject"] + tokens + ("" if found["what"] in ("speed", "kernel") else f": {found['what']}")


def _parity(parity: Figures) -> list[str]:
    free = parity["free_equal"]
    return [f"{max(parity['comparable_logits_max_abs']):.2g} ({parity['bound_logits']:.2g})",
            f"{parity['draws_equal']:.1%}", "" if free is None else f"{free:.1%}", f"{parity['image_psnr_db']:.0f}"]


def _reference_rate(found: Figures, rows: Sequence[Figures]) -> float | None:
    return next((other["images_per_second"]["median"] for other in rows if other["what"] == "speed"
                 and "not_run" not in other and (other["subject"], other["batch"]) == ("reference", found["batch"])),
                None)
