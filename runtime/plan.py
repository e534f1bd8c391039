"""A plan folder on disk: its manifest, and proof that every member is the file that was exported."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from hieramp.runtime.bounds import MANIFEST_BYTES
from hieramp.runtime.contract import MANIFEST
from hieramp.runtime.errors import PlanError
from hieramp.runtime.json_file import read_limited
from hieramp.runtime.manifest import Manifest, Member, parse_manifest
from hieramp.runtime.verified import add_verdicts, identity, read_verdicts

SHIPPED_PLAN = "var_cifar10.plan"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Plan:
    """An opened plan; `digest` is the SHA-256 of its manifest, hence of everything it lists."""

    folder: Path
    manifest: Manifest
    digest: str

    @classmethod
    def open(cls, folder: Path | str, verify: bool = True, remember: Path | None = None) -> "Plan":
        """Read the manifest and, unless `verify` is off, check size and SHA-256 of every member.

        With `remember`, a memory of `verified.py`, a file that was found right is not read again until it changes.
        Raises PlanError where the folder is no plan, the manifest does not fit, or a member is missing or changed.
        """
        folder = Path(folder)
        data = _read_manifest(folder)
        try:
            manifest = parse_manifest(data.decode(), str(folder / MANIFEST))
        except UnicodeDecodeError as error:
            raise PlanError(f"{folder / MANIFEST} is not text ({error}); export the plan again") from None
        plan = cls(folder, manifest, hashlib.sha256(data).hexdigest())
        if verify:
            plan.verify(remember)
        return plan

    def verify(self, remember: Path | None = None) -> None:
        """Check size and SHA-256 of every member; raises PlanError where one is missing or changed."""
        known, found = read_verdicts(remember) if remember else {}, {}
        try:
            for name, wanted in self.manifest.members.items():
                before = self._verify_size(name)
                if known.get(before) != wanted.sha256:
                    self._verify_hash(name)
                    found[before] = wanted.sha256
        except OSError as error:
            raise PlanError(f"{error.filename or self.folder} cannot be read ({error.strerror or error}); "
                            "put that right, or export the plan again") from None
        if remember and found:
            add_verdicts(remember, found)

    def path(self, member: str) -> Path:
        """Where a member lies."""
        return self.folder / member

    def _verify_size(self, name: str) -> str:
        """Check what costs nothing; the file's identity at that time."""
        path, wanted = self.path(name), self.manifest.members[name]
        if not path.is_file():
            raise PlanError(f"{path} is missing; export the plan again")
        if path.resolve().parent != self.folder.resolve():
            raise PlanError(f"{path} is a link that leaves the plan folder; copy the file into it")
        size = path.stat().st_size
        if size != wanted.bytes:
            raise PlanError(f"{path} has {size} bytes where the manifest lists {wanted.bytes}; export the plan again")
        return identity(path)

    def _verify_hash(self, name: str) -> None:
        path = self.path(name)
        if describe_member(path).sha256 != self.manifest.members[name].sha256:
            raise PlanError(f"{path} has changed since the export (its SHA-256 differs); export the plan again")


def shipped_plan() -> Path:
    """The plan that comes with the package."""
    try:
        return Path(str(files("hieramp.engines") / SHIPPED_PLAN))
    except ModuleNotFoundError:
        raise PlanError(f"{SHIPPED_PLAN} does not come with this installation; name a plan with --engine") from None


def describe_member(path: Path) -> Member:
    """Size and SHA-256 of a file, as the manifest lists them."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return Member(size, digest.hexdigest())


def _read_manifest(folder: Path) -> bytes:
    if not folder.is_dir():
        raise PlanError(f"no plan folder at {folder}; name one with --engine, or make one with hieramp-export")
    try:
        return read_limited(folder / MANIFEST, MANIFEST_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PlanError(f"{folder} is no plan: cannot read its {MANIFEST} ({reason}); export it again") from None
