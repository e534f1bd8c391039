"""Pictures from Python: the same as the command's, lazily, for DataLoader and `datasets`, with nothing left behind."""

import gc
import logging
import os
import pickle
import random
import signal
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hieramp.runtime import (
    GeneratedDataset,
    HierampError,
    OnnxRuntimeBackend,
    PictureKey,
    Plan,
    PlanError,
    Record,
    Shard,
    batch_inputs,
    draw_batch,
    generate,
    resolve_settings,
)
from hieramp.runtime.backend_choice import EngineSet, Surroundings
from hieramp.runtime.gpu.device import Device
from hieramp.runtime.job import Job
from hieramp.runtime.painter import Painter
from hieramp.runtime.run_job import run_job
from hieramp.runtime.tensorrt.backend import TensorRtBackend

OPTIONS = {"ipc": 3, "batch_size": 4, "threads": 1}


@pytest.fixture
def pictures(plan: Plan) -> Iterator[GeneratedDataset[Record]]:
    with GeneratedDataset[Record](plan, **OPTIONS) as dataset:
        yield dataset


def pixels(records: "list[Record]") -> list[bytes]:
    return [record.image_SS3.tobytes() for record in records]


def test_records_are_what_the_command_writes(plan: Plan, tmp_path: Path) -> None:
    records = list(generate(plan.folder, classes="bee,dog", seed=5, save_size=4, **OPTIONS))
    run_job(Job(tmp_path, plan.folder, "bee,dog", ipc=3, seed=5, batch_size=4, threads=1, save_size=4))
    assert [(r.label, r.entry.index, r.entry.name, r.index, r.number, r.seed) for r in records] == [
        (label, index, name, i, 3 * label + i, 5) for label, index, name in ((0, 1, "bee"), (1, 3, "dog"))
        for i in range(3)]
    for record in records:
        with Image.open(tmp_path / record.entry.folder / f"{record.index:05d}.png") as stored:
            np.testing.assert_array_equal(np.asarray(stored), record.image_SS3)
    assert records[0].image_SS3.dtype == np.uint8 and records[0].image_SS3.shape == (4, 4, 3)
    assert records[0].tokens_L.shape == (30,) and records[0].saliency == ()


def test_batches_are_drawn_when_they_are_asked_for(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    paint = Painter.paint
    monkeypatch.setattr(Painter, "paint", lambda self, batch: drawn.append(batch) or paint(self, batch))
    records = generate(plan, **OPTIONS)
    assert drawn == []
    next(records)
    assert drawn == [0]
    records.close()


@pytest.mark.parametrize(("options", "message"), [
    ({"classes": "bea"}, "class 'bea' does not exist"),
    ({"backend": "abacus"}, "backend must be one of auto, tensorrt, tensorrt_rtx, onnxruntime, got 'abacus'"),
    ({"backend": "tensorrt"}, r"no back end can draw: tensorrt \(no engines\)"),
    ({"backend": "tensorrt", "provider": "cpu"}, "contradicts backend 'tensorrt'"),
    ({"provider": "abacus"}, "provider must be one of cpu, openvino, cuda"),
])
def test_a_wrong_choice_is_named_at_once(plan: Plan, options: dict[str, str], message: str) -> None:
    with pytest.raises(HierampError, match=message):
        generate(plan, **options)


@pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"backend": "auto"}, {"provider": "cpu"}])
def test_back_ends_have_the_names_of_the_command(plan: Plan, pictures: GeneratedDataset[Record],
                                                 options: dict[str, str]) -> None:
    assert pixels(list(generate(plan, **OPTIONS, **options))) == pixels(list(pictures))


def test_the_engines_that_were_chosen_are_opened(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is made up: a GPU and engines that fit, of which the flavour that is named is taken."""
    folders = {flavour: plan.folder / "tensorrt" / flavour for flavour in ("tensorrt", "tensorrt_rtx")}
    sets = tuple(EngineSet(folder, flavour) for flavour, folder in folders.items())
    here = Surroundings(sets, Device("89", "13.0", "580.1"), ("cpu", "cuda"))
    monkeypatch.setattr("hieramp.runtime.generator.survey", lambda plan: here)
    opened: list[tuple[object, ...]] = []

    def start(plan: Plan, folder: Path, flavour: str) -> OnnxRuntimeBackend:
        opened.append((folder, flavour))
        return OnnxRuntimeBackend.open(plan, "cpu", 1)

    monkeypatch.setattr(TensorRtBackend, "open", start)
    for backend, flavour in (("tensorrt_rtx", "tensorrt_rtx"), ("auto", "tensorrt")):
        with closing(generate(plan, backend=backend, **OPTIONS)) as records:
            next(records)
        assert opened.pop() == (folders[flavour], flavour)


def test_positions_give_what_iterating_gives(pictures: GeneratedDataset[Record]) -> None:
    in_order = list(pictures)
    assert len(pictures) == 12 and pictures.label_names == ["ant", "bee", "big cat", "dog"]
    assert pixels([pictures[i] for i in (11, 0, 5, -1)]) == pixels([in_order[i] for i in (11, 0, 5, 11)])
    for position in (12, -13):
        with pytest.raises(IndexError):
            pictures[position]


@pytest.mark.parametrize("count", [2, 5])
def test_shards_are_the_whole(pictures: GeneratedDataset[Record], count: int) -> None:
    parts = [pictures.shard(index, count) for index in range(count)]
    records = sorted((record for part in parts for record in part), key=lambda record: record.number)
    assert pixels(records) == pixels(list(pictures))
    assert [len(part) for part in parts] == [len(list(part)) for part in parts]
    assert [part[len(part) - 1].number for part in parts if len(part)] == [list(part)[-1].number for part in parts
                                                                           if len(part)]
    assert pixels(list(pictures.shard(1, 2))) == pixels(list(generate(pictures._plan, shard=Shard(1, 2), **OPTIONS)))


def test_pickling_leaves_what_is_loaded_behind(pictures: GeneratedDataset[Record]) -> None:
    first = pictures[0]
    assert pixels([pickle.loads(pickle.dumps(pictures))[0]]) == pixels([first])


def test_leaving_frees_the_plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[weakref.ref[OnnxRuntimeBackend]] = []
    start = OnnxRuntimeBackend.open

    def note(*arguments: object) -> OnnxRuntimeBackend:
        backend = start(*arguments)
        opened.append(weakref.ref(backend))
        return backend

    monkeypatch.setattr(OnnxRuntimeBackend, "open", note)
    with GeneratedDataset[Record](plan, **OPTIONS) as dataset:
        dataset[0]
        list(dataset)
        next(iter(dataset))  # abandoned in the middle
        assert dataset[1].index == 1
    gc.collect()
    assert [reference() for reference in opened] == [None] * 3


def test_closing_an_iterator_frees_the_plan(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[OnnxRuntimeBackend] = []
    leave = OnnxRuntimeBackend.__exit__
    monkeypatch.setattr(OnnxRuntimeBackend, "__exit__", lambda self, *error: closed.append(self) or leave(self, *error))
    with closing(generate(plan, **OPTIONS)) as records:
        next(records)
        assert closed == []
    assert len(closed) == 1 and list(records) == []


def test_memory_does_not_grow_with_the_number_of_pictures(plan: Plan) -> None:
    """While a consumer keeps none, the records that live are those of the batch being drawn and the one before."""
    most, images = 0, list[weakref.ref[np.ndarray]]()
    for record in generate(plan, classes="4", ipc=25, batch_size=5, threads=1):
        images.append(weakref.ref(record.image_SS3))
        most = max(most, sum(image() is not None for image in images))
    assert 5 <= most <= 10


def state_of_the_process() -> tuple[object, ...]:
    """What a library could change for everybody else."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    loggers = [(logger.level, list(logger.handlers)) for logger in (logging.root, logging.getLogger("hieramp"))]
    draws = random.getstate(), np.random.get_state()[1].tobytes()
    return handlers, loggers, draws, dict(os.environ), os.getcwd(), warnings.filters[:], threading.active_count()


def test_it_leaves_the_process_as_it_was(plan: Plan) -> None:
    list(generate(plan, **OPTIONS))  # ONNX Runtime's own first import is not ours
    before = state_of_the_process()
    with GeneratedDataset[Record](plan, **OPTIONS) as dataset:
        dataset[0], list(dataset)
    assert state_of_the_process() == before


def test_it_prints_nothing_and_logs_by_name(plan: Plan, capfd: pytest.CaptureFixture[str],
                                            caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "hieramp.runtime"):
        list(generate(plan, **OPTIONS))
    assert capfd.readouterr() == ("", "")
    assert [record.name for record in caplog.records] == ["hieramp.runtime.generator"]


def test_iterators_run_in_several_threads_at_once(pictures: GeneratedDataset[Record]) -> None:
    barrier = threading.Barrier(3)

    def draw(_: int) -> list[bytes]:
        barrier.wait()
        return pixels(list(pictures))

    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(draw, range(3))
    assert len(first) == 12 and all(other == first for other in others)


def test_generators_in_two_threads_draw_what_each_draws_alone(plan: Plan) -> None:
    """Picture by picture in turns, so that neither can be done before the other begins."""
    alone = [pixels(list(generate(plan, seed=seed, **OPTIONS))) for seed in (1, 2)]
    turns = threading.Barrier(2, timeout=60)

    def draw(seed: int) -> list[bytes]:
        found = []
        for record in generate(plan, seed=seed, **OPTIONS):
            turns.wait()
            found.append(record.image_SS3.tobytes())
        return found

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(draw, (1, 2)))
    assert together == alone and alone[0] != alone[1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [4, 5])
def test_a_dataloader_takes_it(plan: Plan, pictures: GeneratedDataset[Record], workers: int, size: int) -> None:
    """Workers are forked with the plan loaded in the parent."""
    data = pytest.importorskip("torch.utils.data")
    dataset = GeneratedDataset(plan, transform=Record.example, **OPTIONS)
    dataset[0]
    batches = list(data.DataLoader(dataset, batch_size=size, num_workers=workers))
    expected = list(pictures)
    assert tuple(batches[0]["image"].shape) == (size, 8, 8, 3)
    assert [image.numpy().tobytes() for batch in batches for image in batch["image"]] == pixels(expected)
    assert [int(label) for batch in batches for label in batch["label"]] == [record.label for record in expected]


def test_datasets_takes_it(plan: Plan, pictures: GeneratedDataset[Record], tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    dataset = GeneratedDataset(plan, transform=Record.example, **OPTIONS)
    features = datasets.Features({"image": datasets.Image(), "index": datasets.Value("int64"),
                                  "label": datasets.ClassLabel(names=dataset.label_names)})
    table = datasets.Dataset.from_generator(dataset.__iter__, features=features, cache_dir=str(tmp_path))
    assert [np.asarray(row["image"]).tobytes() for row in table] == pixels(list(pictures))
    assert table["label"][:] == [record.label for record in pictures]


def test_a_plan_without_trace_outputs_has_no_saliency(plan: Plan) -> None:
    with pytest.raises(PlanError, match="plan 'tiny' has no trace outputs, hence no saliency"):
        generate(plan, saliency=True)


def test_a_trace_without_amplified_blocks_has_no_saliency(make_plan: Callable[..., Path]) -> None:
    """The tiny plan's trace outputs are logits alone, as those of a plain VAR are."""
    with pytest.raises(PlanError, match="plan 'tiny' amplifies no block, hence has no saliency"):
        generate(make_plan(trace=True), saliency=True)


def test_saliency_is_that_of_the_trace(make_traced_plan: Callable[[], Path]) -> None:
    """[blocks, guidance half, positions] a scale, cut out of [blocks, rows, positions]."""
    plan = Plan.open(make_traced_plan())
    records = list(generate(plan, ipc=1, batch_size=3, threads=1, saliency=True))
    labels_B, uniforms_BL = batch_inputs([PictureKey(label, 0) for label in range(3)], plan.manifest.model, 0)
    with OnnxRuntimeBackend.open(plan, threads=1) as backend:
        drawing = draw_batch(backend, plan, resolve_settings(plan.manifest), labels_B, uniforms_BL, trace=True)
    for row in range(3):
        assert [m.shape for m in records[row].saliency] == [(1, 2, tokens) for tokens in (1, 4, 9, 16)]
        for half in (0, 1):
            for found, whole in zip(records[row].saliency, drawing.saliency, strict=True):
                np.testing.assert_array_equal(found[:, half], whole[:, half * 3 + row])


@pytest.fixture
def make_traced_plan(make_plan: Callable[..., Path]) -> Callable[[], Path]:
    """The tiny plan has no saliency of its own: a trace output that repeats the rows' numbers stands for it."""
    pytest.importorskip("onnx")
    import json

    import onnx

    from hieramp.runtime.plan import describe_member

    def make() -> Path:
        folder = make_plan(trace=True)
        path = folder / "scale_step.onnx"
        model = onnx.load(path)
        model.graph.node.append(onnx.helper.make_node("ReduceMean", ["logits", "last_axis"], ["means"], keepdims=0))
        model.graph.node.append(onnx.helper.make_node("Unsqueeze", ["means", "first_axis"], ["saliency"]))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2], np.int64), "last_axis"))
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "first_axis"))
        output = onnx.helper.make_tensor_value_info("saliency", onnx.TensorProto.FLOAT, [1, "R", "l"])
        model.graph.output.append(output)
        onnx.save(model, path)
        values = json.loads((folder / "manifest.json").read_text())
        described = {"name": "saliency", "type": "float32", "shape": [1, "R", "l"]}
        values["graphs"]["scale_step"]["outputs"].append(described)
        member = describe_member(path)
        values["members"]["scale_step.onnx"] = {"bytes": member.bytes, "sha256": member.sha256}
        (folder / "manifest.json").write_text(json.dumps(values))
        return folder

    return make
