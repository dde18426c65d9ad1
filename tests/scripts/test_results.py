"""The pages of docs/results hold what the scripts wrote, and the links of the documentation lead somewhere."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest

from scripts.report import Report, Table, command_line
from scripts.results import FOLDER, ResultsError, filled, published, stale

ROOT = Path(__file__).parents[2]
PAGE = """# Things

Before.

<!-- table: things/sizes -->
| typed | by hand |
<!-- end -->
Between.
<!-- source: things -->
<!-- end -->
After.
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    table = Table(title="sizes", columns=["", "size"], rows=[["a | b", "1.00 [0.50, 2.00]"], ["c", "2"]], note="Small.")
    Report(
        command="python -m scripts.things --json docs/results/data/things.json",
        seed=3,
        day=date(2026, 3, 1),
        seconds=125,
        machine="2 cores",
        versions={"torch": "2.0"},
        tables={"sizes": table},
    ).write(tmp_path / "data" / "things.json")
    return tmp_path / "data"


def page_of(data: Path, text: str) -> Path:
    page = data.parent / "things.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_are_filled_and_nothing_else_is_touched(data: Path) -> None:
    page = page_of(data, PAGE)
    assert stale(page, data) == ["table: things/sizes", "source: things"]
    page.write_text(found := filled(page, data), encoding="utf-8")
    assert stale(page, data) == [] and filled(page, data) == found
    assert (
        found
        == """# Things

Before.

<!-- table: things/sizes -->
|  | size |
| --- | --- |
| a \\| b | 1.00 [0.50, 2.00] |
| c | 2 |

Small.
<!-- end -->
Between.
<!-- source: things -->
    python -m scripts.things --json docs/results/data/things.json

*Printed on 1 March 2026 in 2 minutes, seed 3; 2 cores; torch 2.0.*
<!-- end -->
After.
"""
    )


def test_a_figure_typed_by_hand_is_found(data: Path) -> None:
    page = page_of(data, PAGE)
    page.write_text(filled(page, data).replace("0.50", "0.90"), encoding="utf-8")
    assert stale(page, data) == ["table: things/sizes"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("things/sizes", "things/colours", "the tables of things.json are sizes"),
        ("source: things", "source: others", "run the script with --json"),
        ("<!-- end -->\nAfter.", "After.", "'source: things' has no end"),
        ("<!-- end -->\nBetween.", "Between.", "'table: things/sizes' has no end"),
    ],
)
def test_what_cannot_be_filled_is_named(data: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ResultsError, match=re.escape(message)):
        stale(page_of(data, PAGE.replace(old, new)), data)


def test_a_file_that_is_no_report_is_named(data: Path) -> None:
    (data / "things.json").write_text('{"rows": []}')
    with pytest.raises(ResultsError, match="is no report"):
        stale(page_of(data, PAGE), data)


def test_a_command_is_as_a_user_types_it() -> None:
    typed = command_line(["/some/where/scripts/things.py", "--out", "runs/a b"])
    assert typed == "python -m scripts.things --out 'runs/a b'"


def test_published_pages_are_current() -> None:
    pages = published()
    assert len(pages) > 5
    assert {page.name: names for page in pages if (names := stale(page, FOLDER / "data"))} == {}


def test_every_file_of_figures_is_shown_and_names_no_place_of_a_machine() -> None:
    shown = "\n".join(page.read_text(encoding="utf-8") for page in published())
    for file in sorted((FOLDER / "data").glob("*.json")):
        made = Report.model_validate_json(file.read_bytes())
        assert f"<!-- source: {file.stem} -->" in shown, f"no page shows {file.name}"
        unseen = [name for name in made.tables if f"<!-- table: {file.stem}/{name} -->" not in shown]
        assert unseen == [], f"no page shows these tables of {file.name}"
        assert not re.search(r"(^|[ =])/", made.command), f"{file.name} was made with an absolute path"


def test_the_index_names_every_page() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in FOLDER.glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"]({name}" not in index} == set()


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if "://" in target:
                continue
            name, _, anchor = target.partition("#")
            other = page.parent / name if name else page
            assert other.exists(), f"{page.relative_to(ROOT)} links to {target}"
            assert not anchor or anchor in anchors(other), f"{page.relative_to(ROOT)} links to {target}"


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
