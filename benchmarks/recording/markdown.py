"""Pages of headed sections and tables, as Markdown."""

from collections.abc import Iterable, Sequence


def document(title: str, made_by: str, notes: Iterable[str], sections: Iterable[tuple[str, str]]) -> str:
    """A page of headed sections."""
    parts = [f"# {title}", made_by, *notes, *(f"## {heading}\n\n{body}" for heading, body in sections)]
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float) -> str:
    """A share with one decimal."""
    return f"{share:.1%}"
