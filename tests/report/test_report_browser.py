"""The page in a real browser."""

from pathlib import Path

import pytest
from chromium import Browser
from hand_written import read_run, record, written
from PIL import Image

from surgeon.report.build import make_report, write_report
from surgeon.report.networks import Files


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    hostile = "<img src=x onerror=alert(1)>"
    contents = [record(notes=[hostile]), record("finetune")]
    runs = [read_run(written(folder, f"{place}.json", content)) for place, content in enumerate(contents)]
    write_report(make_report([tuple(runs)], Files()), folder / "report.html")
    return folder / "report.html"


def shown_rows(browser: Browser) -> int:
    found = browser.ask("[...document.querySelectorAll('#edit-table tbody tr')].filter(row => row.offsetHeight).length")
    return int(found)


def test_it_opens_without_errors_and_without_requests(browser: Browser, page: Path) -> None:
    for dark in (False, True):
        browser.open(page, dark=dark)
        assert browser.problems == []
        assert browser.requests == [page.resolve().as_uri()]
        assert browser.ask("document.querySelector('h1').textContent") == "sofm and finetune (control) of resnet18"


def test_the_table_is_searched(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert shown_rows(browser) == 3
    browser.ask("document.getElementById('search').focus()")
    browser.type("CONV averaged")
    assert shown_rows(browser) == 1
    assert browser.ask("document.getElementById('found').textContent") == "1 of 3 edits"
    browser.type(" nothing")
    assert shown_rows(browser) == 0
    browser.ask("document.getElementById('search').select()")
    browser.press("Backspace", 8)
    assert shown_rows(browser) == 3
    assert browser.problems == []


def test_a_recipe_is_copied_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.ask("document.querySelector('button[data-copies]').focus()")
    browser.press("Enter", 13, "\r")
    # A page that may not write to the clipboard marks the text in its place.
    status = browser.ask(
        "new Promise(done => { const find = () => document.getElementById('copied').textContent; "
        "const look = () => find() ? done(find()) : setTimeout(look, 20); look(); })"
    )
    assert status in ("Copied.", "Selected: copy it with the keyboard.")
    if status != "Copied.":
        assert browser.ask("getSelection().toString()").startswith("surgeon apply --recipe 0.json")


def test_a_keyboard_reaches_everything(browser: Browser, page: Path) -> None:
    browser.open(page)
    reached = set()
    for _ in range(60):
        browser.press("Tab", 9)
        reached.add(browser.ask("document.activeElement.id || document.activeElement.tagName"))
    assert {"search", "BUTTON", "SUMMARY", "A", "DIV", "command-1"} <= reached


def test_a_screen_reader_hears_names(browser: Browser, page: Path) -> None:
    browser.open(page)
    nodes = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in browser.call("Accessibility.getFullAXTree")["nodes"]
        if not node["ignored"]
    ]
    assert ("image", "Stages") in nodes
    assert ("searchbox", "Search the edits") in nodes
    assert ("figure", "Accuracy per epoch") in nodes
    for role, name in nodes:
        if role in ("image", "button", "link", "searchbox", "region", "figure", "navigation"):
            assert name, role


def test_it_fits_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=390, height=844)
    assert browser.ask("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.ask("document.documentElement.clientWidth") <= 390
    assert browser.ask("getComputedStyle(document.body).fontSize") == "16px"


def test_it_is_dark_where_the_reader_wants_that(browser: Browser, page: Path, tmp_path: Path) -> None:
    brightness = {}
    for dark in (False, True):
        browser.open(page, dark=dark)
        with Image.open(browser.picture(tmp_path / "page.png", whole=False)) as taken:
            pixels = taken.convert("L").resize((64, 64))
            brightness[dark] = sum(pixels.tobytes()) / 64**2
        ink = browser.ask("getComputedStyle(document.querySelector('#figure-stages svg text')).fill")
        assert ink == ("rgb(232, 234, 237)" if dark else "rgb(28, 33, 40)")
    assert brightness[False] > 200
    assert brightness[True] < 60
