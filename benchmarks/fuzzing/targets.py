"""What is fuzzed: strategies of hostile cases, each with the check that it goes to."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing import strategies as hostile
from fuzzing.checks import (
    ENGINE,
    check_classes,
    check_command,
    check_folder,
    check_graph,
    check_manifest,
    check_memory,
    check_names,
    check_picture,
    check_plan,
    check_settings,
    check_sidecar_file,
    check_soft_labels,
    check_teacher,
    check_tokens,
    check_weights,
    dataset_files,
)
from fuzzing.place import Place
from fuzzing.plan import CONSTANTS, MODEL, NAMES
from hypothesis import strategies as st
from PIL import Image

from hieramp.runtime.contract import WEIGHTS
from hieramp.runtime.edit_files import tokens_npz
from hieramp.runtime.images import png_bytes
from hieramp.runtime.schedule import Overrides
from hieramp.runtime.soft_labels import npy_bytes
from hieramp.runtime.writers.layouts import LAYOUTS

SIDECAR: dict[str, Any] = {
    "schema_version": 1, "graph": "scale_step", "flavour": "tensorrt_rtx", "version": "1.7.1",
    "compute_capabilities": ["86", "89"], "system": "linux-x86_64", "cuda": None, "driver": None,
    "onnx_sha256": "0", "weights_sha256": "0", "plugins": [], "precision": "fp32", "tf32": False, "build_seconds": 1.5,
    "profiles": [{"scale": 0, "shapes": {"uniform": {"min": [1, 1], "opt": [8, 1], "max": [32, 1]}},
                  "values": {"top_k": {"min": [1], "opt": [6], "max": [8]}}}],
    "engine": {"bytes": len(ENGINE), "sha256": sha256(ENGINE).hexdigest()},
}
TEACHER = {"classes": ["ant", "bee", "cat"], "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
PICTURES = {"folder": "ant/00000.png", "rded": "00000/class00000_id00000.png", "webdataset": "data-000000.tar",
            "parquet": "data/train-00000-of-00001.parquet"}


@dataclass(frozen=True)
class Target:
    """`check` raises a HierampError where it refuses a case, and nothing else, ever; `share` weighs its cases."""

    cases: st.SearchStrategy[Any]
    check: Callable[[Place, Any], None]
    share: int = 1


PLANTED = ("pipe", "folder", "link", "link to folder", "loop", "dangling", "zeros", "gone", "gone", "hard link")
BESIDE = ("dataset.json", "contact_sheet.png", "README.md")
planted = st.sampled_from(PLANTED)
names_lists = st.lists(st.one_of(hostile.texts, st.sampled_from(NAMES)), min_size=1, max_size=5)
CLASS_LIST = [{"label": 0, "folder": "ant", "index": 0, "name": "ant"}]


@st.composite
def tampered(draw: hostile.Draw, plan: Path) -> tuple[str, dict[str, str | bytes], bool]:
    """Which layout, what lies where, and whether it may be replaced."""
    layout = draw(st.sampled_from(tuple(LAYOUTS)))
    whole = dataset_files(plan, layout)
    picture = PICTURES[layout]
    scratch = str(Path(picture).with_name(f".{Path(picture).name}.partial"))
    record = json.loads(whole["dataset.json"])
    places: list[tuple[str, st.SearchStrategy[str | bytes]]] = [
        ("dataset.json", st.one_of(hostile.file_bytes(record), planted)),
        ("classes.json", st.one_of(hostile.file_bytes(CLASS_LIST), planted)),
        ("shard-00000-of-00002.json", st.one_of(hostile.file_bytes(record), planted)),
        (picture, st.one_of(hostile.damaged(whole[picture]), planted)),
        *((name, planted) for name in (scratch, "ant", "00000", "data", *BESIDE)),
        *((f".{name}.partial", planted) for name in BESIDE),
    ]
    chosen = draw(st.lists(st.sampled_from(range(len(places))), min_size=1, max_size=4, unique=True))
    changes = {places[index][0]: draw(places[index][1]) for index in chosen}
    return layout, ({"README.md": "gone"} | changes if draw(st.booleans()) else changes), draw(st.booleans())


def _fitting(sidecar: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    """The sidecar of an engine of this plan."""
    members = manifest["members"]
    return sidecar | {"onnx_sha256": members["scale_step.onnx"]["sha256"], "weights_sha256": members[WEIGHTS]["sha256"]}


def settings_cases() -> st.SearchStrategy[Overrides]:
    """Numbers of every kind where numbers belong; the command lets nothing else through."""
    floats = st.one_of(st.floats(), st.sampled_from([float(n) for n in hostile.NUMBERS if abs(n) < 1e300 or n != n]))
    several = st.one_of(st.none(), st.lists(floats, max_size=4).map(tuple))
    whole = st.one_of(st.none(), st.integers(), st.integers(0, 9))
    return st.builds(Overrides, several, several, several, whole, st.one_of(st.none(), floats), st.booleans())


def targets(place: Place) -> dict[str, Target]:
    """All of them, for a place."""
    manifest, weights = place.manifest, bytes(4 * sum(map(prod, CONSTANTS.values())))
    members = st.sampled_from((*manifest["members"], "manifest.json"))
    locations = st.one_of(st.just("inside"), hostile.texts, st.sampled_from((
        "inside", "./inside", "../elsewhere/canary", "sub/../inside", "sub/../../../canary", "link", "sub/up/canary",
        "/etc/passwd", "../../../../../../etc/passwd", "/dev/zero", "sub", ".", "file:///etc/passwd")))
    sizes = st.one_of(st.integers(0, 4), st.integers(0, 8), st.sampled_from((-1, 9, 1 << 31, 1 << 40, (1 << 63) - 1)))
    picture = png_bytes(Image.new("RGB", (8, 8)))
    return {
        "manifest": Target(hostile.json_texts(manifest), check_manifest, 22),
        "plan folder": Target(st.tuples(
            st.one_of(st.just(json.dumps(manifest).encode()), hostile.file_bytes(manifest)),
            st.lists(st.tuples(members, st.one_of(planted, st.binary(max_size=8))), max_size=2)), check_plan, 6),
        "sidecar": Target(hostile.file_bytes(_fitting(SIDECAR, manifest)), check_sidecar_file, 20),
        "classes": Target(st.tuples(names_lists, st.one_of(
            hostile.texts, hostile.texts.map(lambda text: text.encode(errors="surrogatepass")), st.binary(max_size=40),
            st.lists(st.one_of(hostile.texts, st.sampled_from(NAMES), st.from_regex(r"[0-9]{1,12}(-[0-9]{1,12})?")))
            .map(lambda items: ",".join(items)))), check_classes, 20),
        "weights": Target(hostile.safetensors_files(CONSTANTS, weights), check_weights, 8),
        "settings": Target(settings_cases(), check_settings, 8),
        "memory": Target(hostile.file_bytes({"a|1|2|3": "0"}), check_memory, 6),
        "picture": Target(hostile.damaged(picture), check_picture, 6),
        "teacher": Target(hostile.json_texts(TEACHER), check_teacher, 6),
        "soft labels": Target(hostile.damaged(npy_bytes(np.zeros((2, 3), np.float32))), check_soft_labels, 4),
        "tokens": Target(hostile.damaged(tokens_npz(np.zeros(MODEL.token_count, np.int64), MODEL.patch_sides)),
                         check_tokens, 4),
        "names": Target(st.tuples(names_lists, st.sampled_from(tuple(LAYOUTS))), check_names, 4),
        "output folder": Target(tampered(place.plan), check_folder, 6),
        "command": Target(st.tuples(hostile.file_bytes(manifest), st.one_of(st.none(), hostile.texts), st.booleans()),
                          check_command, 4),
        "graph": Target(st.tuples(locations, sizes, sizes), check_graph, 6),
    }
