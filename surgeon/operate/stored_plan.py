"""Plans in files: one safetensors file, its tensors by name and everything else as JSON in the header."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeon.checkpoint import write_tensors
from surgeon.checkpoint.safetensors_file import read_safetensors
from surgeon.edit.plan import Plan
from surgeon.edit.plan_file import encode
from surgeon.edit.plan_reader import decode
from surgeon.errors import CheckpointError, PlanError

HEADER_KEY = "surgeon_plan"


@dataclass(frozen=True)
class StoredPlan:
    """A plan as it was read from a file.

    Attributes:
        plan: the plan.
        path: the file.
        sha256: of the file, as 64 hexadecimal digits.
    """

    plan: Plan
    path: Path
    sha256: str

    @property
    def options(self) -> dict[str, Any]:
        """The method's options, but for `every`: a plan is carried out once."""
        return {name: value for name, value in self.plan.options.items() if name != "every"}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the results should know."""
        notes = [f"The plan in {self.path} is replayed; its SHA-256 is {self.sha256}."]
        every = self.plan.options.get("every")
        if every is not None:
            notes.append(f"The plan was made with every={every}, and is carried out once.")
        if len(self.plan.targets) > 1:
            notes.append("The plan's targets are edited all at once and fine-tuned together.")
        return tuple(notes)


def save_plan(plan: Plan, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a plan as .safetensors; the file appears whole or not at all.

    Args:
        plan: what `surgeon.plan` returned.
        path: where to, a name that ends in .safetensors.
        overwrite: replace a file that exists.

    Raises:
        PlanError: the plan edits nothing, or `load_plan` would refuse it.
        OutputError: the path exists, is not for .safetensors or cannot be written.
    """
    if not plan.edits:
        raise PlanError("The plan edits nothing, so there is nothing to save.", "Choose other layers or options.")
    tensors, text = encode(plan)
    decode(tensors, text, "The plan")
    write_tensors(path, tensors, {HEADER_KEY: text}, overwrite=overwrite)


def load_plan(path: str | Path) -> Plan:
    """Read a plan that `save_plan` wrote; nothing that the file holds is run.

    Args:
        path: the file.

    Returns:
        The plan, with its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no plan.
        PlanError: the plan is malformed.
    """
    return open_plan(path).plan


def open_plan(path: str | Path) -> StoredPlan:
    """Do the same as `load_plan`, and tell from which file."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file that exists.", "Check the path of the plan.")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        tensors, metadata = read_safetensors(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"{path} holds no plan.", "Give a file that --save-plan or surgeon.save_plan wrote.")
    return StoredPlan(decode(tensors, metadata[HEADER_KEY], str(path)), path, sha256)
