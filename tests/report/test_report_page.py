"""What stands on the page, and that nothing of a record gets into it unescaped."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hand_written import epoch, read_run, record, stage, written

from surgeon.report.build import Report, make_report
from surgeon.report.course import epochs_chart, stages_chart
from surgeon.report.groups import grouped
from surgeon.report.networks import Files
from surgeon.report.page import Section, render
from surgeon.report.panel import Missing, Picture, Table, brief, shown
from surgeon.report.recipe import command, toml

HOSTILE = "<script>alert(1)</script>\"'&$x_1^2${{7*7}}\x1b[31m"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report_of(folder: Path, *contents: dict[str, Any]) -> Report:
    runs = [read_run(written(folder, f"run-{place}.json", content)) for place, content in enumerate(contents)]
    return make_report([tuple(runs)], Files())


def test_a_page_holds_what_the_record_says(tmp_path: Path) -> None:
    report = report_of(tmp_path, record(notes=["Take care."], skipped=["fc: it is the output."]))
    page = Page(report.html)
    assert page.of("html")[0]["lang"] == "en"
    for text in ("Take care.", "fc: it is the output.", "sofm: layer1 of resnet18", "ratio 0.5", "0" * 64):
        assert text in page.text
    assert [picture.key for picture in report.pictures] == ["stages", "epochs"]
    assert page.text.count("layer1.0.conv2.weight") == 1
    # Epochs count from 1 for a reader.
    assert "started anew 2" in page.text


def test_what_cannot_be_shown_is_listed_with_its_reason(tmp_path: Path) -> None:
    report = report_of(tmp_path, record())
    titles = [missing.title for missing in report.missing]
    for title in ("Scales γ", "Utilization", "Overlap", "Coupling graph", "Class-representative", "Accuracy while"):
        assert any(title in found for found in titles), title
    page = Page(report.html)
    for missing in report.missing:
        assert missing.title in page.text
        assert missing.reason in page.text
        assert missing.remedy in page.text
    assert "There is no file input.safetensors" in page.text
    assert "--checkpoint FILE" in page.text


def test_nothing_of_a_record_gets_out_of_its_place(tmp_path: Path) -> None:
    content = record(
        method=HOSTILE, targets=[HOSTILE], arch=HOSTILE, notes=[HOSTILE], skipped=[HOSTILE], device=HOSTILE,
        options={HOSTILE: HOSTILE}, recipe={HOSTILE: HOSTILE, "set": {HOSTILE: HOSTILE}},
        figures={HOSTILE: {HOSTILE: HOSTILE}}, versions={HOSTILE: HOSTILE}, data={"name": HOSTILE},
        checkpoint={"path": HOSTILE, "sha256": HOSTILE}, output=HOSTILE,
        stages=[stage(HOSTILE, 50.0, target=HOSTILE, metrics={HOSTILE: 1.0})],
        epochs=[epoch(0, 50.0, phase="a", target=HOSTILE), epoch(1, 60.0, phase=HOSTILE)],
        edits=[{"tensor": HOSTILE, "dim": 0, "channels": 1, "positions": HOSTILE, "what": HOSTILE}],
    )  # fmt: skip
    report = report_of(tmp_path, content, record("finetune"))
    page = Page(report.html)
    assert len(page.of("script")) == 1
    assert "alert(1)</script>" not in report.html.replace("&lt;", "").replace("\\u003c", "")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "\x1b" not in report.html
    assert "{{7*7}}" in report.html
    for picture in report.pictures:
        assert "<script" not in picture.svg
        ElementTree.fromstring(picture.svg)
        assert "<script" not in picture.inline


@pytest.mark.parametrize(
    "text", ["plain", "data:image/svg+xml,<svg onload=alert(1)>", "<img src=http://x>", "http://x/a.png", "url(//x)"]
)
def test_a_page_refers_to_nothing_outside_of_it(tmp_path: Path, text: str) -> None:
    paths = {"output": text, "checkpoint": {"path": text, "sha256": text}, "data": {"name": text, "file": text}}
    report = report_of(tmp_path, record(notes=[text], targets=[text], arch=text, **paths), record("finetune"))
    page = Page(report.html)
    assert text in page.text
    own = {f"#{attributes['id']}" for _, attributes in page.elements if attributes.get("id")}
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base", "audio", "video", "import")
        for name in ("href", "src", "xlink:href", "action", "srcset", "data"):
            if (target := attributes.get(name)) is not None:
                assert target in own or target.startswith("data:"), (tag, name, target)
    written = "".join(re.findall(r"<style.*?</style>|<[^>]*>", report.html, re.S))
    assert not re.search(r"@import|url\((?!#)", written)
    policy = next(one["content"] for one in page.of("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy
    assert not re.search(r"script-src[^;]*unsafe", policy)


def test_names_of_a_network_are_printable_on_the_page(tmp_path: Path) -> None:
    name = "layers.\x1b[2J\u202ertl\x07.<b>"
    picture = Picture("scales", name, name, "<svg/>", "<svg/>", Table(("layer", name), ((name, 1),)))
    panels = (picture, Missing(name, name, name))
    html = render(grouped([read_run(written(tmp_path, "a.json", record()))]), [Section(name, panels)], [name])
    assert not [letter for letter in html if not (letter.isprintable() or letter == "\n")]
    assert html.count(r"layers.\x1b[2J\u202ertl\x07.&lt;b&gt;") >= 8


def test_names_of_elements_are_there_once(tmp_path: Path) -> None:
    page = Page(report_of(tmp_path, record(), record("finetune")).html)
    names = [attributes["id"] for _, attributes in page.elements if attributes.get("id")]
    assert len(names) == len(set(names))
    for _, attributes in page.elements:
        for reference in ("aria-labelledby", "aria-describedby", "for", "data-copies"):
            if reference in attributes:
                assert attributes[reference] in names


def test_every_picture_has_a_name_a_caption_and_its_numbers(tmp_path: Path) -> None:
    report = report_of(tmp_path, record(), record("finetune"))
    page = Page(report.html)
    pictures = page.of("svg")
    assert len(pictures) == len(report.pictures) == len(page.of("figure")) == len(page.of("figcaption"))
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in pictures)
    for picture in report.pictures:
        assert picture.table.rows
        assert picture.caption in page.text
    assert all("scope" in attributes for attributes in page.of("th"))


def test_the_numbers_beside_the_stages(tmp_path: Path) -> None:
    contents = [record(top1=(50.0, 70.0)), record(top1=(60.0, 74.0), seed=1), record("finetune", top1=(81.0, 79.0))]
    runs = [read_run(written(tmp_path, f"{place}.json", content)) for place, content in enumerate(contents)]
    chart = stages_chart(grouped(runs))
    assert isinstance(chart, Picture)
    found = [(row[0], row[1], row[2], row[4]) for row in chart.table.rows]
    assert found == [
        ("sofm", 0, "original", 80.0), ("sofm", 0, "operated", 12.5), ("sofm", 0, "finetuned", 70.0),
        ("sofm", 1, "original", 80.0), ("sofm", 1, "operated", 12.5), ("sofm", 1, "finetuned", 74.0),
        ("finetune (control)", 0, "original", 80.0), ("finetune (control)", 0, "finetuned", 79.0),
    ]  # fmt: skip
    # The bars are labelled with the means.
    assert {">72.00<", ">12.50<", ">79.00<"} <= set(re.findall(r">[\d.]+<", chart.svg))
    assert "sofm from 80 to 72" in chart.caption


def test_the_numbers_beside_the_epochs(tmp_path: Path) -> None:
    contents = [record(top1=(50.0, 70.0)), record(top1=(60.0, 74.0), seed=1), record("finetune", top1=(81.0, 79.0))]
    runs = [read_run(written(tmp_path, f"{place}.json", content)) for place, content in enumerate(contents)]
    chart = epochs_chart(grouped(runs))
    assert isinstance(chart, Picture)
    assert chart.table.rows == (
        ("sofm", 1, 55.0, 50.0, 60.0, 2), ("sofm", 2, 72.0, 70.0, 74.0, 2),
        ("finetune (control)", 1, 81.0, 81.0, 81.0, 1), ("finetune (control)", 2, 79.0, 79.0, 79.0, 1),
    )  # fmt: skip
    assert "no control" not in chart.caption
    alone = epochs_chart(grouped(runs[:1]))
    assert isinstance(alone, Picture)
    assert "There is no control" in alone.caption


def test_phases_and_operations_are_marked(tmp_path: Path) -> None:
    phases = ("full network", "sub-network", "sub-network", "full network")
    epochs = [epoch(place, 50.0 + place, phase=phase) for place, phase in enumerate(phases)]
    epochs[1]["operation"] = {"phase": "sub-network"}
    runs = [read_run(written(tmp_path, "a.json", record("repr", epochs=epochs)))]
    chart = epochs_chart(grouped(runs))
    assert isinstance(chart, Picture)
    assert "sub-network (repr)" in chart.svg
    assert "operation (repr)" in chart.svg
    assert "full network (repr)" not in chart.svg
    assert (
        "Shaded epochs of repr: sub-network. Triangles: repr operates on the network before 1 epochs." in chart.caption
    )


def test_a_run_without_figures_says_so(tmp_path: Path) -> None:
    content = record(stages=[stage("original", None), stage("finetuned", None)], epochs=[])
    groups = grouped([read_run(written(tmp_path, "a.json", content))])
    for chart in (stages_chart(groups), epochs_chart(groups)):
        assert isinstance(chart, Missing)
        assert "--data" in chart.remedy


def test_pictures_follow_the_colours_of_the_page(tmp_path: Path) -> None:
    for picture in report_of(tmp_path, record()).pictures:
        assert "var(--ink)" in picture.inline
        assert not re.search(r"(fill|stroke): #", picture.inline)
        assert "var(" not in picture.svg
        assert "#fff" in picture.svg.split(">", 1)[0]


def test_the_same_record_gives_the_same_pictures(tmp_path: Path) -> None:
    first, second = (report_of(tmp_path, record(), record("finetune")) for _ in range(2))
    assert first.pictures == second.pictures


def test_a_record_of_very_many_stages_and_edits_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("surgeon.report.page.MOST_EDITS", 2)
    content = record(stages=[stage(f"stage {number}", 50.0, metrics={f"m{number}": 1.0}) for number in range(200)])
    report = report_of(tmp_path, content)
    assert report.pictures[0].svg.count(">50.00<") == 60
    assert len(report.pictures[0].table.columns) == 10 + 20
    assert "Of 200 bars 60 are shown. Of 200 other figures in the table 20 are shown." in report.pictures[0].caption
    assert "The page shows the first 2 of 3 edits." in report.html
    assert "layer1.0.conv2.weight" not in report.html


def test_a_control_beside_many_runs_is_not_cut(tmp_path: Path) -> None:
    contents = [record(options={"ratio": number / 100}) for number in range(30)]
    contents.append(record("finetune"))
    runs = [read_run(written(tmp_path, f"{number}.json", content)) for number, content in enumerate(contents)]
    groups = grouped(runs)
    bars, curves = stages_chart(groups), epochs_chart(groups)
    assert isinstance(bars, Picture)
    assert isinstance(curves, Picture)
    assert bars.svg.count(">finetune (control): ") == 2
    assert "finetune (control) from 80 to 70" in bars.caption
    assert "Of 92 bars 60 are shown." in bars.caption
    assert "Of 31 curves 12 are shown." in curves.caption
    labels = list(dict.fromkeys(row[0] for row in curves.table.rows))
    assert (len(labels), labels[-1]) == (12, "finetune (control)")


def test_very_many_phases_are_shaded_in_part(tmp_path: Path) -> None:
    epochs = [epoch(place, 50.0, phase="ab"[place % 2]) for place in range(140)]
    chart = epochs_chart(grouped([read_run(written(tmp_path, "a.json", record("repr", epochs=epochs)))]))
    assert isinstance(chart, Picture)
    assert "Shaded epochs of repr: b. Of 70 phases 50 are shown." in chart.caption


def test_a_recipe_is_toml_that_means_the_same() -> None:
    import tomllib

    recipe: dict[str, Any] = {
        "method": 'a"b\\c\n\x7f',
        "data": "😀",
        "margin": -math.inf,
        "layers": ["x", "é"],
        "lr": 0.1,
        "seed": 0,
        "flag": True,
        "set": {"a b": "1"},
    }
    assert tomllib.loads(toml({**recipe, "nothing": None})) == recipe


def test_a_command_quotes_what_a_shell_would_run(tmp_path: Path) -> None:
    run = read_run(written(tmp_path, "a b.json", record(checkpoint={"path": "x; rm -r y", "sha256": ""})))
    assert command(run) == "surgeon apply --recipe 'a b.json' -o 'a b-again.safetensors' 'x; rm -r y'"
    option = read_run(written(tmp_path, "b.json", record(checkpoint={"path": "--download", "sha256": ""})))
    assert command(option).endswith("b-again.safetensors ./--download")
    control = read_run(written(tmp_path, "c.json", record("finetune", checkpoint={})))
    assert command(control) == "surgeon finetune --recipe c.json -o c-again.safetensors"


def test_a_command_names_what_no_recipe_may_decide(tmp_path: Path) -> None:
    recipe = {"arch": "a b.py:f", "teacher-arch": "resnet18", "data": "torch/cifar10", "download": True, "lr": 0.1}
    run = read_run(written(tmp_path, "a.json", record(checkpoint={}, recipe=recipe)))
    words = "--arch 'a b.py:f' --data torch/cifar10 --download"
    assert command(run) == f"surgeon apply --recipe a.json {words} -o a-again.safetensors"
    harmless = read_run(
        written(tmp_path, "b.json", record(checkpoint={}, recipe={"arch": "resnet18", "data": "digits"}))
    )
    assert command(harmless) == "surgeon apply --recipe b.json -o b-again.safetensors"


def test_names_for_charts_are_cut_in_the_middle() -> None:
    assert brief("abcdefgh", 8) == "abcdefgh"
    assert brief("abcdefghi", 8) == "abcd…ghi"


def test_a_table_is_rectangular() -> None:
    with pytest.raises(ValueError, match="another number"):
        Table(("a", "b"), ((1,),))


def test_cells_are_shown_with_four_digits() -> None:
    assert [shown(cell) for cell in (None, 12345, 0.123456, 98.4722, 123456.7, "x")] == [
        "–", "12,345", "0.1235", "98.47", "123,457", "x"
    ]  # fmt: skip
