"""The parsers under atheris, which looks for inputs that reach new branches; an extra driver beside fuzz.py."""

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import click


@click.command("fuzz_coverage", context_settings={"show_default": True})
@click.option("--runs", type=click.IntRange(1), default=100_000, help="Inputs, each to both parsers.")
@click.option("--seed", type=click.IntRange(1), default=1, help="Of libFuzzer.")
def main(runs: int, seed: int) -> None:
    """Feed bytes to the readers of manifests and sidecars until one raises anything but a HierampError."""
    try:
        import atheris
    except ImportError:
        raise click.ClickException("this needs atheris: pip install atheris") from None
    with atheris.instrument_imports(include=["hieramp.runtime"]):  # so nothing of it is imported before
        from hieramp.runtime.errors import HierampError
        from hieramp.runtime.manifest import parse_manifest
        from hieramp.runtime.tensorrt.limits import limits_of
        from hieramp.runtime.tensorrt.sidecar import read_sidecar, sidecar_path
    from fuzzing.place import Place
    from fuzzing.targets import SIDECAR

    folder = Path(tempfile.mkdtemp())
    engine, corpus = folder / "scale_step.engine", folder / "corpus"
    corpus.mkdir()
    for number, valid in enumerate((Place.make(folder / "place").manifest, SIDECAR)):
        (corpus / str(number)).write_text(json.dumps(valid))

    def attempt(data: bytes) -> None:
        with suppress(HierampError):
            parse_manifest(data.decode(errors="replace"))
        sidecar_path(engine).write_bytes(data)
        with suppress(HierampError):
            limits_of([read_sidecar(engine)])

    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-seed={seed}", "-timeout=10", "-rss_limit_mb=2048", "-max_len=8192",
                   str(corpus)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
