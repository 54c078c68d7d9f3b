"""`surgeon report` on a run of its own."""

from pathlib import Path

import pytest
from command_line import ARCH, DIGITS, QUICK, call
from hand_written import record, written

PICTURES = {"stages", "epochs", "scales", "utilization", "overlap", "coupling", "activations", "ablation"}
SAME_IMAGES = ["--data", "digits", "--limit", "60", "--workers", "0"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The record of a short run with sofm, its input and output beside it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "digits.safetensors").write_bytes(DIGITS.read_bytes())
    options = ["--method", "sofm", "--layers", "layer3", "--arch", ARCH, *QUICK, "-o", folder / "out.safetensors"]
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "apply", folder / "digits.safetensors", *options) == 0
    return folder / "out.json"


def test_everything_is_shown(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page, figures = tmp_path / "page.html", tmp_path / "figures"
    arguments = ["report", run, "-o", page, "--figures", figures, "--arch", ARCH, *SAME_IMAGES]
    assert call(monkeypatch, *arguments) == 0
    told = capfd.readouterr()
    assert told.out == f"{page}\n"
    assert "Not shown" not in told.err
    assert {path.name for path in figures.iterdir()} == {f"{name}.svg" for name in PICTURES}
    assert all(path.read_text().startswith("<svg") for path in figures.iterdir())
    html = page.read_text()
    assert all(f'id="figure-{name}"' in html for name in PICTURES)
    # The network in between is the run's own, told by its scores.
    assert ">reorganized</text>" in html
    assert ">operated</text>" in html
    before = page.read_bytes()
    assert call(monkeypatch, *arguments) == 1
    assert "exists" in capfd.readouterr().err
    assert page.read_bytes() == before
    page.unlink()
    picture = figures / "stages.svg"
    svg = picture.read_text()
    for other in (picture, figures / "notes.txt"):
        other.write_text("<svg>mine</svg>")
        assert call(monkeypatch, *arguments) == 1
        assert "is not empty" in capfd.readouterr().err
        assert other.read_text() == "<svg>mine</svg>"
        other.unlink()
    assert not page.exists()
    # As a call leaves them that was interrupted.
    assert call(monkeypatch, *arguments) == 0
    assert picture.read_text() == svg
    assert call(monkeypatch, "report", run, "-o", page, "--figures", figures, "--overwrite") == 0
    assert "not run on a checkpoint's word" in capfd.readouterr().err
    assert page.exists()


def test_a_network_in_between_that_is_not_the_runs_is_not_shown(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    other = ["--data", "digits", "--limit", "20", "--workers", "0"]
    assert call(monkeypatch, "report", run, "-o", page, "--arch", ARCH, *other) == 0
    told = capfd.readouterr().err
    assert "Not shown: Activations after the operation." in told
    assert "Give the same --data" in told
    assert ">reorganized</text>" not in page.read_text()


def test_what_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert call(monkeypatch, "report") == 2
    assert call(monkeypatch, "report", tmp_path / "none.json", "-o", page) == 1
    assert "There is no file" in capfd.readouterr().err
    good = written(tmp_path, "good.json", record())
    assert call(monkeypatch, "report", good, "-o", tmp_path / "nowhere" / "page.html") == 1
    assert call(monkeypatch, "report", good, "-o", page, "--limit", "5") == 1
    assert "does nothing without --data" in capfd.readouterr().err
    (tmp_path / "file").touch()
    assert call(monkeypatch, "report", good, "-o", page, "--figures", tmp_path / "file") == 1
    assert not page.exists()
