"""The report: well-formed HTML that needs nothing from outside, and says what it was given."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dgm.diagnostics import report_style
from pyro_dgm.diagnostics.pictures import image_grid
from pyro_dgm.diagnostics.report import Finding, Picture, Section, Table, write_report
from pyro_dgm.errors import InvalidInput

VOID = {"meta", "img", "br", "hr", "link", "input"}
NASTY = "<script>alert(\"1\")</script> & 'quotes' {braces} ü ∑"


class Checked(HTMLParser):
    """Everything that is wrong with a page, and its text by tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.text: dict[str, list[str]] = {}
        self.cells: list[tuple[str, bool]] = []
        self.feed(page)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag in self.open]
        self.wrong += [f"#{link} leads nowhere" for link in self.links if link not in self.ids]
        self.wrong += [f"id {name!r} twice" for name in set(self.ids) if self.ids.count(name) > 1]

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            self.wrong.append(f"<{tag}>")
        for name, value in given.items():
            if name in ("src", "href", "srcset", "data", "action", "poster", "background"):
                inside = value.startswith(("data:image/png;base64,", "#"))
                self.wrong += [] if inside else [f"{name}={value[:40]}"]
            if name.startswith("on") or (name == "style"):
                self.wrong.append(f"{name}= in <{tag}>")
            if name == "href":
                self.links.append(value.removeprefix("#"))
            if name == "id":
                self.ids.append(value)
            if name == "aria-labelledby":
                self.links.append(value)
        if tag == "img":
            self.images.append(given)
            self.wrong += [] if given.get("alt") else ["an image without alt"]
        if tag == "td":
            self.cells.append(("", given.get("class") == "number"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}> out of place")

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)
        if self.open and self.open[-1] == "td":
            text, number = self.cells[-1]
            self.cells[-1] = (text + data, number)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a picture.png"
    image_grid(torch.rand(4, 1, 5, 7), path)
    return path


def written(tmp_path: Path, *args, **options) -> tuple[str, Checked]:
    path = tmp_path / "report.html"
    write_report(path, *args, **options)
    page = path.read_text(encoding="utf-8")
    return page, Checked(page)


def whole(picture: Path) -> tuple[tuple, dict]:
    table = Table(["name", "count", "nats"], [["a", 1, -1.5], ["b", 12_345, None]], "Numbers")
    sections = [
        Section("Bounds", "One.\n\nTwo\nlines.\n\n- first\n- second", tables=[table]),
        Section("Bounds", "Again.", pictures=[Picture(picture, "Samples", "a grid"), (picture, "No alt")]),
        Section("???", ""),
        Section("verdict", NASTY),
        Section(NASTY, NASTY, [Picture(picture, NASTY, NASTY)], [Table([NASTY], [[NASTY]], NASTY)]),
    ]
    verdict = [
        Finding("good", "fine"),
        ("bad", NASTY),
        Finding("unknown", "?"),
        Finding("note", "more draws"),
    ]
    return (NASTY, sections), {"verdict": verdict, "summary": "What was done."}


def test_a_report_is_well_formed_and_needs_nothing_from_outside(tmp_path, picture):
    args, options = whole(picture)
    page, checked = written(tmp_path, *args, **options)
    assert checked.wrong == []
    assert not re.search(r"https?:|//[a-z]|url\(|@import", page, re.I)
    assert "default-src 'none'" in page and 'name="viewport"' in page and 'charset="utf-8"' in page
    assert checked.ids == [
        "verdict",
        "bounds",
        "bounds-2",
        "section",
        "verdict-2",
        "script-alert-1-script-quotes-braces",
    ]
    assert [link for link in checked.links if link in checked.ids[1:]][:5] == checked.ids[1:]
    assert checked.text["h1"] == [NASTY] and checked.text["title"] == [NASTY]
    assert checked.text["h2"] == ["Verdict", "Bounds", "Bounds", "???", "verdict", NASTY]
    assert checked.text["p"] == ["What was done.", "One.", "Two lines.", "Again.", NASTY, NASTY]
    assert checked.text["caption"] == ["Numbers", NASTY]
    assert {"first", "second"} <= set(checked.text["li"])
    assert checked.text["strong"] == ["trust:", "doubt:", "not known:", "try next:"]


def test_pictures_are_inside_byte_for_byte_with_their_size(tmp_path, picture):
    args, options = whole(picture)
    _, checked = written(tmp_path, *args, **options)
    assert [image["alt"] for image in checked.images] == ["a grid", "No alt", NASTY]
    for image in checked.images:
        assert base64.b64decode(image["src"].partition(",")[2]) == picture.read_bytes()
        times = 480 // 33
        assert (int(image["width"]), int(image["height"])) == (33 * times, 7 * times)
    assert checked.text["figcaption"] == ["Samples", "No alt", NASTY]


def test_numbers_are_aligned_at_the_right_and_rounded(tmp_path):
    columns = {
        "integers": ([1, 12_345], ["1", "12,345"], True),
        "floats": ([-22.456, 1e-5], ["-22.46", "1e-05"], True),
        "large": ([123_456.7, 1e12], ["123,457", "1e+12"], True),
        "numpy": ([np.float32(0.5), np.int64(3)], ["0.5", "3"], True),
        "not finite": ([math.nan, -math.inf], ["NaN", "-∞"], True),
        "missing": ([None, 2.0], ["–", "2"], True),
        "with errors": (["-22.5 ± 0.2", "1.0"], ["-22.5 ± 0.2", "1.0"], True),
        "text of numbers": (["2.3e-09", "nan"], ["2.3e-09", "nan"], True),
        "dates and versions": (["2024-01-01", "v2"], ["2024-01-01", "v2"], False),
        "words": (["a", 2.0], ["a", "2"], False),
        "truth": ([True, False], ["yes", "no"], False),
        "numpy truth": ([np.True_, np.False_], ["yes", "no"], False),
    }
    rows = list(zip(*(cells for cells, _, _ in columns.values()), strict=True))
    _, checked = written(tmp_path, "t", [Section("s", tables=[Table(list(columns), rows)])])
    wanted = [(shown[row], right) for row in range(2) for _, shown, right in columns.values()]
    assert checked.cells == wanted


def test_an_empty_report_and_an_empty_table(tmp_path):
    _, checked = written(tmp_path, "t", [])
    assert checked.wrong == [] and "h2" not in checked.text and checked.links == []
    _, checked = written(tmp_path, "t", [Section("s", tables=[Table(["a", "b"], [])])])
    assert checked.wrong == [] and checked.text["th"] == ["a", "b"]


def test_the_same_input_gives_the_same_bytes(tmp_path, picture):
    args, options = whole(picture)
    first, _ = written(tmp_path, *args, **options)
    second, _ = written(tmp_path, *args, **options)
    assert first == second


def test_both_looks_have_contrast():
    """WCAG's ratio of 4.5 for text, on the page and on the card, in the light and in the dark look."""

    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    looks = re.findall(r":root \{(.*?)\}", report_style.STYLE, re.S)
    assert len(looks) == 2
    for look in looks:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", look))
        for name in ("text", "soft", "link", "good", "bad", "unknown", "note"):
            for back in ("back", "card"):
                light, dark = sorted((luminance(colours[name]), luminance(colours[back])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (name, back)


def test_bad_input_is_refused_and_the_old_report_stays(tmp_path, picture):
    path = tmp_path / "report.html"
    write_report(path, "old", [])
    old = path.read_text()
    text = tmp_path / "no.png"
    text.write_text("no picture")
    for match, sections, verdict in (
        ("no PNG", [Section("s", pictures=[Picture(text, "c")])], []),
        ("uneven rows in section 's'", [Section("s", tables=[Table(["a"], [[1, 2]])])], []),
        ("unknown kind of finding", [], [("splendid", "text")]),
    ):
        with pytest.raises(InvalidInput, match=match):
            write_report(path, "new", sections, verdict=verdict)
    with pytest.raises(FileNotFoundError):
        write_report(path, "new", [Section("s", pictures=[Picture(tmp_path / "none.png", "c")])])
    assert path.read_text() == old
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a picture.png", "no.png", "report.html"]


MUTANTS = {
    "a tag that is not closed": ("</h2>", ""),
    "a picture from outside": ("data:image/png;base64,", "https://example.org/"),
    "a script": ("<main>", "<main><script>1</script>"),
    "an image without alt": ('alt="a grid"', 'alt=""'),
    "a link to nowhere": ('href="#bounds-2"', 'href="#bounds-3"'),
    "two of one name": ('id="bounds-2"', 'id="bounds"'),
    "text that is not escaped": ("&lt;script&gt;", "<script>"),
    "a handler": ("<figure>", '<figure onclick="x()">'),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_checker_finds_a_planted_fault(tmp_path, picture, name):
    args, options = whole(picture)
    page, checked = written(tmp_path, *args, **options)
    assert checked.wrong == [] and MUTANTS[name][0] in page
    assert Checked(page.replace(*MUTANTS[name], 1)).wrong != []
