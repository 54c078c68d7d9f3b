"""Text of files that anybody may have put there: pipes are not waited for, and letters of four bytes are bounded."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
import torch

from surgeon.bounded_file import LONGEST_WIDE, decoded, read_text
from surgeon.bounded_json import BoundError
from surgeon.checkpoint.safetensors_file import LONGEST_READ, read_header
from surgeon.checkpoint.tree_file import DIGEST_KEY, NOTHING, TREE_KEY, digest, read_label, read_tree, write_tree
from surgeon.checkpoint.write import write_tensors
from surgeon.errors import CheckpointError, DataError
from surgeon.operate.states import OUTPUTS, UNREADABLE, StateFolder
from surgeon.report.records import decoded as record_of


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    """Fail where something waits for the other end of a pipe."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 5, 1)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_what_is_no_regular_file_is_told_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path(os.devnull)):
        with pytest.raises(OSError, match="no regular file"):
            read_text(path, 10)
    with pytest.raises(IsADirectoryError):
        read_text(tmp_path, 10)
    (tmp_path / "file").write_text("1234é", "utf-8")
    (tmp_path / "to file").symlink_to("file")
    assert read_text(tmp_path / "to file", 6) == "1234é"
    with pytest.raises(BoundError, match="larger than 5 bytes"):
        read_text(tmp_path / "file", 5)


def test_a_state_folder_of_pipes_is_none_to_go_on_from(tmp_path: Path) -> None:
    folder, said = StateFolder(tmp_path / "states"), list[str]()
    folder.write("run", {"terms": {"seed": 1}})
    for name in ("state-00000002.safetensors", OUTPUTS, UNREADABLE):
        os.mkfifo(folder.path / name)
    newest = folder.newest("run", said.append)
    assert newest is not None
    pipe = folder.path / "state-00000002.safetensors"
    assert said == [f"The state {pipe} is damaged, so the one before it is taken."]
    assert (folder.terms, folder.unreadable, folder.announced(tmp_path / "out")) == ({}, [], False)
    assert folder.marked(newest["mark"]) == newest
    folder.remove()
    assert not folder.path.exists()


WIDE = ("\U0001f600".encode(), rb"\ud83d\ude00", rb"\uDBFF\uDFFF")


@pytest.mark.parametrize("letter", WIDE)
def test_one_letter_beyond_16_bits_is_not_taken_in_long_text(letter: bytes) -> None:
    filler = b" " * (LONGEST_WIDE - len(letter))
    assert len(decoded(letter + filler).encode()) == LONGEST_WIDE
    with pytest.raises(BoundError, match="letters beyond 16 bits"):
        decoded(filler + b" " + letter)
    assert decoded(filler + rb" \ue000\u00e9" + "Ω".encode()).endswith("Ω")


@pytest.mark.parametrize("letter", WIDE[:2])
def test_headers_and_records_are_refused_before_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, letter: bytes
) -> None:
    monkeypatch.setattr(json, "loads", None)
    text = b'{"a":"' + letter + b"x" * LONGEST_WIDE + b'"}'
    path = tmp_path / "state-00000001.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="letters beyond 16 bits"):
        read_header(path)
    assert read_label(path) == {}
    (tmp_path / "record.json").write_bytes(text)
    with pytest.raises(DataError, match="letters beyond 16 bits"):
        record_of(tmp_path / "record.json")


def test_a_state_s_header_is_no_longer_than_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    text = b"{" + b" " * LONGEST_READ + b"}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match=f"more than the {LONGEST_READ} of its kind"):
        read_tree(path)


def test_a_tree_is_text_in_ascii_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tree(path, {"😀": "é"})
    assert read_tree(path) == {"😀": "é"}
    tensors = {NOTHING: torch.empty(0)}
    for letter in ("e", "é"):
        text = json.dumps({"m": [["a", letter]]}, ensure_ascii=False)
        write_tensors(path, tensors, {TREE_KEY: text, DIGEST_KEY: digest(tensors, text)}, overwrite=True)
        if letter == "e":
            assert read_tree(path) == {"a": "e"}
    with pytest.raises(CheckpointError, match="is damaged"):
        read_tree(path)
