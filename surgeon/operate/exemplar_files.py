"""Where a job keeps the exemplars that it makes: the same job uses them again, and nobody else's file is replaced."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from surgeon import __version__
from surgeon.checkpoint import refuse_existing
from surgeon.checkpoint.tree_file import digest
from surgeon.checkpoint.write import remove_output, staged, write_into
from surgeon.data import ImageConfig
from surgeon.data.exemplars import DIGESTS, LEAST, Exemplars, exemplar_content, read_about, read_exemplars
from surgeon.data.pictures import check_folder, save_pictures
from surgeon.errors import DataError, OutputError
from surgeon.exemplars import SynthesisConfig
from surgeon.operate.inputs import Say
from surgeon.operate.job import ExemplarJob, Job
from surgeon.operate.job_files import is_read
from surgeon.processes import from_main, is_main, same_tensors


def synthesis_sha256(model: nn.Module, images: ImageConfig, config: SynthesisConfig, classes: int) -> str:
    """Return what tells exemplars from others: the SHA-256 of everything that they are made from.

    Args:
        model: the network, whose weights may be one of several sets in its file.
        images: its input.
        config: the options, with their size.
        classes: number of classes.

    Returns:
        64 hexadecimal digits.
    """
    asked = {"images": dataclasses.asdict(images), "config": dataclasses.asdict(config), "classes": classes}
    known = {**asked, "architecture": str(getattr(model, "surgeon_architecture", "")), "version": __version__}
    return digest(dict(model.state_dict()), json.dumps(known, sort_keys=True, default=str))


def find_earlier(job: Job, wanted: ExemplarJob, expected: Exemplars) -> Exemplars | None:
    """Return the exemplars that stand in the job's file already, if they are those that it would make.

    The main process looks, and the others hear of it: what a disk shows may change between two looks.

    Args:
        job: what they are for; one that begins anew makes them anew.
        wanted: where PNG images of them go.
        expected: what they would be, but for the pixels, in whose place anything may stand.

    Raises:
        OutputError: the file, or the folder for PNG images, is somebody else's.
    """
    found, refusal = None, None
    if is_main():
        try:
            found = _find(job, wanted, expected)
        except OutputError as error:
            refusal = error.problem, error.remedy
    about, refusal = from_main((None if found is None else _about(found), refusal))
    if refusal is not None:
        raise OutputError(*refusal)
    if about is None:
        return None
    earlier = found or dataclasses.replace(expected, **about)
    same_tensors([earlier.images, earlier.labels])
    return earlier


def keep(job: Job, wanted: ExemplarJob, made: Exemplars, say: Say) -> None:
    """Write exemplars to the job's file; of the same ones only the PNG images that are missing.

    Raises:
        OutputError: a file cannot be written.
    """
    file, pictures = job.exemplar_file, wanted.pictures
    earlier = _matching(file, made)
    if earlier is None or not torch.equal(earlier.images, made.images):
        with staged(file) as one:
            write_into(one.file, *exemplar_content(made))
            one.sync()
            if job.states is not None:
                job.states.announce({file: one.sha256})
            one.put(earlier is not None or job.may_replace(file))
        say(f"The exemplars are kept in {file}; --data exemplars:{file} uses them again.")
    if pictures is not None:
        save_pictures(pictures, made, job.overwrite)


def drop_stale(job: Job, used: str | None, say: Say) -> None:
    """Remove the exemplars of an earlier result that is being replaced: they are not what this one was made with.

    Args:
        job: what has been done.
        used: where the exemplars of this result are, or None.
        say: is told of it.
    """
    file = job.exemplar_file
    own = used is not None and Path(used).resolve() == file.resolve()
    if own or not file.is_file() or is_read(job, file) or not job.may_replace(file):
        return
    remove_output(file)
    say(f"The exemplars of the earlier result, {file}, are removed: this one was made without them.")


def _find(job: Job, wanted: ExemplarJob, expected: Exemplars) -> Exemplars | None:
    file, pictures = job.exemplar_file, wanted.pictures
    found = _matching(file, expected)
    if found is None:
        refuse_existing(file, job.may_replace(file))
    if pictures is not None:
        check_folder(pictures, job.overwrite, found)
    return None if job.restart else found


def _about(exemplars: Exemplars) -> dict[str, Any]:
    """Everything but the images and the labels, by name."""
    values = {field.name: getattr(exemplars, field.name) for field in dataclasses.fields(exemplars)}
    return {name: value for name, value in values.items() if not isinstance(value, torch.Tensor)}


def _matching(file: Path, expected: Exemplars) -> Exemplars | None:
    """Return the exemplars of a file if they were made from the very same; None where it is missing or another's."""
    try:
        if read_about(file)["synthesis_sha256"] != expected.synthesis_sha256:
            return None
        found = read_exemplars(file)
    except DataError:
        return None
    same = all(getattr(found, name) == getattr(expected, name) for name in (*LEAST, *DIGESTS))
    same = same and found.images.shape == expected.images.shape
    return found if same and torch.equal(found.labels, expected.labels) else None
