"""What people and viewers get of an audit: the strongest answers, the viewer's lines, and the page in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import dist_attr as da
from dist_attr.auditing import audit, read_audit, read_audit_queries, read_highlights, read_scores
from dist_attr.auditing.result import matrix
from dist_attr.config import AuditConfig, ProbeConfig
from dist_attr.corpus import Document
from dist_attr.display.report import MOST_SHOWN, ranked, write_report
from dist_attr.errors import StoreError
from dist_attr.readout import Attribution
from dist_attr.store import MeasuredFidelity, record_fidelity
from scripts.page_screenshot import FLAGS, browser_path
from tests.auditing.conftest import QUERIES, SOURCES, WORDS
from tests.stores import make_store

pytestmark = pytest.mark.usefixtures("cluster")
NASTY = "<img src=x onerror=alert(1)>"
FIDELITY = MeasuredFidelity(
    truth="this run", readout="linear", dropped=1, retrained=4, queries=8, correlation=0.8, interval=(0.6, 0.9)
)


@pytest.fixture(scope="module")
def base(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with documents and a measured fidelity, and queries one of which is HTML."""
    base, draw = tmp_path_factory.mktemp("reported"), np.random.default_rng(2)
    documents = [
        Document(f"{source}-{n}", " ".join(draw.choice(WORDS, 6)), source, {}) for source in SOURCES for n in range(2)
    ]
    record_fidelity(make_store(base, SOURCES, context=128, documents=documents), [FIDELITY])
    rows = [json.loads(row) for row in (folder / "queries.jsonl").read_text().splitlines()]
    rows = [{name: row[name] for name in row if name != "baseline"} for row in rows]
    rows[0] = {"id": "html", "prompt": NASTY, "completion": " the law", "group": "talk/0"}
    (base / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return base


@pytest.fixture(scope="module")
def out(base: Path) -> Path:
    """An audit of it, in parts that hold a few queries each."""
    probe = ProbeConfig(template="{document}\n{prompt}", window=16, documents=1)
    config = AuditConfig(part=4, shapley=15, resamples=100, probe=probe)
    audit(f"{base}/influence.zarr", f"{base}/queries.jsonl", f"{base}/out", config, command="dist-attr audit again")
    assert write_report(f"{base}/out") == f"{base}/out/report.html"
    return base / "out"


@pytest.fixture(scope="module")
def attributed(base: Path) -> Attribution:
    """What the library says of the same queries."""
    return da.Attributor(da.open_store(f"{base}/influence.zarr")).attribute(read_audit_queries(f"{base}/queries.jsonl"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, out: Path) -> Iterator[Page]:
    """The report, in a browser without a network."""
    with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:
        page, asked = context.new_page(), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.goto(f"file://{out}/report.html")
        yield page
        assert asked == [f"file://{out}/report.html"]


def test_the_strongest_answers_are_those_of_the_library(base: Path, out: Path, attributed: Attribution) -> None:
    queries = read_audit_queries(f"{base}/queries.jsonl")
    number = {query.name: i for i, query in enumerate(queries)}
    found = read_highlights(str(out), read_audit(str(out)), SOURCES)
    for column, source in enumerate(SOURCES):
        scores = attributed.scores[:, column]
        falling = np.argsort(-scores, kind="stable")
        for sign, shown, expected in (
            (1, found[source].proponent, falling),
            (-1, found[source].opponent, falling[::-1]),
        ):
            best = [i for i in expected[:3] if sign * scores[i] > 0]
            assert len(shown) == len(best)
            for one, i in zip(shown, best, strict=True):
                assert one.effect == pytest.approx(scores[i], abs=2e-5)
                own = number[one.id]
                assert scores[own] == pytest.approx(scores[i], abs=2e-5)
                assert (one.prompt, one.completion, one.group) == (
                    queries[own].prompt,
                    queries[own].completion,
                    queries[own].group,
                )
                np.testing.assert_allclose(one.token_effects, attributed.token_scores[own][column], atol=2e-5)
                assert list(one.tokens) == attributed.tokens[own]


def test_answers_that_tie_are_found_too(tmp_path: Path) -> None:
    make_store(tmp_path, ["ant", "bee"], context=48)
    rows = [{"id": f"{n:02}", "completion": " the law"} for n in range(12)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = audit(
        f"{tmp_path}/influence.zarr", f"{tmp_path}/q.jsonl", f"{tmp_path}/out", AuditConfig(part=5), workers=1
    )
    for each in read_highlights(f"{tmp_path}/out", found, ["ant", "bee"]).values():
        assert sorted([len(each.proponent), len(each.opponent)]) == [0, 3]


def test_the_viewers_lines_have_its_fields(out: Path, base: Path, attributed: Attribution) -> None:
    lines = [json.loads(line) for line in (out / "viewer.jsonl").read_text().splitlines()]
    queries = read_audit_queries(f"{base}/queries.jsonl")
    for line, query, scores in zip(lines, queries, attributed.scores, strict=True):
        assert (line["example_id"], line["query_set"]) == (query.name, query.group or "")
        assert (line["inputs_plaintext"], line["targets_plaintext"]) == (query.prompt, query.completion)
        falling = sorted(zip(scores.tolist(), SOURCES, strict=True), reverse=True)
        assert line["proponents"] == line["proponent_ids"] == [name for score, name in falling if score > 0]
        assert line["opponents"] == line["opponent_ids"] == [name for score, name in falling[::-1] if score < 0]
        assert line["proponent_scores"] == pytest.approx([score for score, _ in falling if score > 0], abs=2e-5)
        assert line["opponent_scores"] == pytest.approx([score for score, _ in falling[::-1] if score < 0], abs=2e-5)


def test_the_page_says_what_the_audit_found(page: Page, out: Path) -> None:
    found = read_audit(str(out))
    rows = ranked(found)
    assert sorted(row.share.value or 0 for row in rows) == [row.share.value for row in rows][::-1]
    shares = page.locator("h2:has-text('Shares of the sources') ~ .scroll").first.locator("tbody tr")
    expect(shares).to_have_count(len(SOURCES))
    for row, shown in zip(rows, shares.all(), strict=True):
        name, _, share, effect, relative, tokens = shown.locator("td").all_inner_texts()
        assert name == (row.name if row.effect.distinct else f"({row.name})")
        value, low, high = (float(each) for each in re.findall(r"-?[\d.]+", share))
        assert row.share.value is not None and value == pytest.approx(100 * row.share.value, abs=0.051)
        own = row.share
        assert own.low is not None and own.fidelity_low is not None
        assert own.high is not None and own.fidelity_high is not None
        lowest, highest = min(own.low, own.fidelity_low), max(own.high, own.fidelity_high)
        assert (low, high) == pytest.approx([100 * lowest, 100 * highest], abs=0.051)
        assert float(effect.split()[0].replace("−", "-")) == pytest.approx(row.effect.value, rel=0.01)
        whole = sum(source.tokens for source in found.sources)
        assert float(relative) == pytest.approx(row.share.value * whole / row.tokens, abs=0.0051)
        assert int(tokens.replace(",", "")) == row.tokens
    text = page.locator("body").inner_text()
    assert rows[0].name in page.locator(".lead").first.inner_text()
    assert "0.80 [0.60, 0.90]" in text and "dist-attr audit again" in text and found.identity in text
    assert all(warning in text for warning in found.warnings)
    assert found.model in text and found.corpus in text and found.queries_digest in text
    cells = page.locator(".heat tbody tr").first.locator("td.cell")
    groups = [table for table in found.tables if table.scope == "group" and table.measure == "net effect"]
    expect(cells).to_have_count(len(groups))
    groups.sort(key=lambda table: table.group or "")
    for table, cell in zip(groups, cells.all_inner_texts(), strict=True):
        (own,) = (share for share in table.sources if share.source == rows[0].name)
        assert float(cell.strip("()").replace("−", "-")) == pytest.approx(
            own.value, rel=0.06, abs=0.01 * abs(rows[0].effect.value or 1)
        )
        assert cell.startswith("(") != own.distinct


def test_probing_stands_beside_influence(page: Page, out: Path) -> None:
    found = read_audit(str(out))
    assert found.probing is not None
    section = page.locator("h2:has-text('in its prompt') ~ .plots").first
    cells = section.locator("tbody tr").first.locator("td").all_inner_texts()
    overall = found.probing.agreement.overall
    assert cells[:2] == ["all", str(QUERIES)] and overall.spearman.value is not None
    assert float(cells[2].split()[0]) == pytest.approx(overall.spearman.value, abs=0.0051)
    assert section.locator("tbody tr").count() == 2 + len(found.probing.agreement.groups)
    scores = read_scores(str(out), ["scores", "probing"])
    means = [matrix(scores[name], len(SOURCES)).mean(axis=0) for name in ("scores", "probing")]
    dots = section.locator("circle")
    places = [(float(dot.get_attribute("cx") or ""), -float(dot.get_attribute("cy") or "")) for dot in dots.all()]
    names = [dot.text_content() for dot in dots.all()]
    for axis, mean in enumerate(means):
        order = sorted(range(len(names)), key=lambda i: places[i][axis])
        assert [names[i] for i in order] == [SOURCES[i] for i in mean.argsort()]


def test_answers_are_coloured_by_what_a_source_did_to_their_tokens(page: Page, out: Path) -> None:
    found = read_audit(str(out))
    names = [row.name for row in ranked(found)[:MOST_SHOWN]]
    highlights = read_highlights(str(out), found, names)
    expected = [one for name in names for one in (*highlights[name].proponent, *highlights[name].opponent[:1])]
    answers = page.locator(".answer")
    expect(answers).to_have_count(len(expected))
    for one, shown in zip(expected, answers.all(), strict=True):
        tokens = shown.locator(".token")
        assert tokens.all_text_contents() == list(one.tokens)
        kinds = [token.get_attribute("class") for token in tokens.all()]
        assert kinds == [f"token {'for' if effect > 0 else 'against'}" for effect in one.token_effects]


def test_texts_of_answers_stay_texts(page: Page, out: Path) -> None:
    assert page.locator("img, script, iframe, link").count() == 0
    found = read_audit(str(out))
    if any(one.id == "html" for each in read_highlights(str(out), found, SOURCES).values() for one in each.proponent):
        assert NASTY in page.locator("body").inner_text()
    assert NASTY not in (out / "report.html").read_text()


def test_it_fits_a_small_screen_and_a_sheet_of_paper(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 2 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 12


def test_there_is_no_page_without_an_audit(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no finished audit"):
        write_report(str(tmp_path))


def test_few_answers_and_no_fidelity_are_said(folder: Path, tmp_path: Path) -> None:
    rows = (folder / "queries.jsonl").read_text().splitlines()[5:8]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    found = audit(f"{folder}/influence.zarr", f"{tmp_path}/q.jsonl", f"{tmp_path}/out", workers=1)
    assert found.number == 3 < QUERIES
    text = Path(write_report(f"{tmp_path}/out")).read_text()
    assert "So few answers have no intervals" in text and "nobody has compared them with retraining" in text
