"""How far a build is, and how it is interrupted."""

import signal

import pytest

from hieramp.export.tensorrt_build.progress import Progress, interrupt_cancels


def test_phases_within_phases() -> None:
    progress = Progress("step")
    progress.phase_start("build", None, 4)
    progress.step_complete("build", 0)
    assert progress.fraction == 1 / 4
    progress.phase_start("optimise", "build", 2)
    progress.step_complete("optimise", 0)
    assert progress.fraction == 1 / 4 + 1 / 8
    progress.phase_start("empty", "optimise", 0)
    assert progress.step_complete("empty", 0)
    progress.phase_finish("empty")
    progress.phase_finish("optimise")
    progress.step_complete("build", 3)
    assert progress.fraction == 1
    progress.phase_finish("build")
    progress.close()


def test_an_interrupt_cancels_and_is_raised_at_the_end() -> None:
    before, progress, reached = signal.getsignal(signal.SIGINT), Progress("step"), []
    progress.phase_start("build", None, 2)
    with pytest.raises(KeyboardInterrupt), interrupt_cancels(progress):
        signal.raise_signal(signal.SIGINT)
        reached.append(progress.step_complete("build", 0))
    assert reached == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_without_an_interrupt_nothing_happens() -> None:
    before, progress = signal.getsignal(signal.SIGINT), Progress("step")
    with interrupt_cancels(progress):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
