"""The accuracy benchmark's rows as a page of tables and verdicts, and as a plot."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from recording.markdown import document, percent, table
from students.conditions import COMPARISONS, CONDITIONS
from students.paired import CONFIDENCE, paired_difference, verdict
from students.tasks import Figures

from hieramp_ref.training.state import write_atomically

Values = dict[tuple[str, int], dict[int, float]]


def by_condition(rows: Iterable[Figures], figure: str = "last") -> Values:
    """Accuracy by (condition, IPC) and seed; of two rows of one student the later counts."""
    found: Values = {}
    for row in rows:
        found.setdefault((row["condition"], row["ipc"]), {})[row["seed"]] = row[figure]
    return found


def page(rows: Sequence[Figures], notes: Sequence[str]) -> str:
    """Accuracies, then what the paired differences say."""
    last, best = by_condition(rows), by_condition(rows, "best")
    ipcs = sorted({row["ipc"] for row in rows})
    protocols = sorted({f"{row['protocol']['name']}, {row['epochs']} epochs at IPC {row['ipc']}" for row in rows})
    students = "/".join(sorted({row["student"] for row in rows})) or "no"
    made_by = ("Written by `python benchmarks/student_accuracy.py` from its rows. "
               f"Students: {students}; {'; '.join(protocols)}. Accuracy after the last epoch on the test images, "
               "mean ± standard deviation over seeds; seed s draws the images and the student's initial weights.")
    sections = [("Accuracy", accuracy_table(last, best, ipcs)), ("Paired differences", differences(last, ipcs))]
    return document("Student accuracy", made_by, notes, sections)


def accuracy_table(last: Values, best: Values, ipcs: Sequence[int]) -> str:
    """A row a condition, last epoch and best test by IPC."""
    header = ["training images", "seeds", *(f"IPC {ipc}, last" for ipc in ipcs), *(f"IPC {ipc}, best" for ipc in ipcs)]
    rows = []
    for condition in CONDITIONS:
        measured = [last.get((condition.name, ipc), {}) for ipc in ipcs]
        if any(measured):
            cells = [*(mean_and_deviation(seeds) for seeds in measured),
                     *(mean_and_deviation(best.get((condition.name, ipc), {})) for ipc in ipcs)]
            rows.append([condition.name, "/".join(str(len(seeds)) for seeds in measured), *cells])
    return table(header, rows)


def mean_and_deviation(by_seed: dict[int, float]) -> str:
    """A cell: per cent with the standard deviation where there are two seeds or more."""
    values = list(by_seed.values())
    if not values:
        return ""
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return percent(statistics.fmean(values)) + deviation


def differences(last: Values, ipcs: Sequence[int]) -> str:
    """A row a question and IPC, over the seeds that both conditions have."""
    rows = []
    for comparison in COMPARISONS:
        for ipc in ipcs:
            first, second = last.get((comparison.first, ipc), {}), last.get((comparison.second, ipc), {})
            if seeds := sorted(first.keys() & second.keys()):
                paired = paired_difference([first[seed] for seed in seeds], [second[seed] for seed in seeds])
                difference = f"{comparison.first} − {comparison.second}"
                rows.append([comparison.question, difference, str(ipc), str(len(seeds)), verdict(paired)])
    return table(["question", "difference", "IPC", "pairs", f"mean [{CONFIDENCE:.0%} interval]: verdict"], rows)


def draw_plot(rows: Sequence[Figures], path: Path) -> None:
    """Every student as a point and every condition's mean as a bar, a panel an IPC."""
    values, ipcs = by_condition(rows), sorted({row["ipc"] for row in rows})
    names = [c.name for c in CONDITIONS if any((c.name, ipc) in values for ipc in ipcs)]
    figure = Figure(figsize=(1.5 + 3.5 * len(ipcs), 1.5 + 0.45 * len(names)), layout="constrained")
    for column, ipc in enumerate(ipcs):
        axes = figure.add_subplot(1, len(ipcs), column + 1)
        for position, name in enumerate(reversed(names)):
            seeds = [100 * value for value in values.get((name, ipc), {}).values()]
            if seeds:
                color = "tab:gray" if name == "real" else "tab:blue"
                axes.barh(position, statistics.fmean(seeds), color=color, alpha=0.5)
                axes.plot(seeds, [position] * len(seeds), "k.", markersize=4)
        axes.set_yticks(range(len(names)), list(reversed(names)) if column == 0 else [""] * len(names))
        axes.set(title=f"{ipc} images per class", xlabel="test accuracy, %")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
