"""What the page shows of in-context probing beside influence, against what the library says."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import dist_attr as da
from dist_attr.probing import Passages, Prober, agreement, by_source
from tests.end_to_end.page.conftest import IMAGE, NAMES, PROBING, with_key
from tests.end_to_end.page.test_answers import QUERY, open_query, text
from tests.end_to_end.page.test_around import assert_accessible, kept_busy
from tests.end_to_end.test_service_faults import processes

LONG = 90_000  # milliseconds, for a prober that is being started


@pytest.fixture(scope="package")
def probed(store: da.InfluenceStore) -> Any:
    """The library's probe of the query, and BM25 of the sources."""
    prober = Prober.of(store, PROBING)
    passages = Passages.of(store, prober.tokenizer, prober.window)
    [probe] = prober.probe([QUERY], [passages.choose(QUERY, PROBING)])
    return probe, passages.bm25(QUERY)


def compare(page: Page) -> Locator:
    page.get_by_role("button", name="Compare with in-context probing").click()
    shown = page.locator("#agreement")
    expect(shown).to_be_visible(timeout=LONG)
    return shown


def ranking(page: Page, name: str) -> list[tuple[str, float]]:
    rows = page.get_by_role("list", name=name).get_by_role("button").all()
    return [(text(row.locator(".name")), number(text(row.locator(".score")))) for row in rows]


def number(written: str) -> float:
    return float(written.split("±")[0].replace("−", "-"))


def test_both_rankings_stand_side_by_side(page: Page, attributor: da.Attributor, probed: Any) -> None:
    open_query(page)
    agreed = text(compare(page))
    influence = dict(zip(attributor.sources, attributor.attribute([QUERY]).scores[0], strict=True))
    probing = {each.source: each.mean for each in by_source(probed[0], NAMES)}
    for name, right in (("By influence", influence), ("By in-context probing", probing)):
        shown = ranking(page, name)
        assert [source for source, _ in shown] == sorted(right, key=lambda source: -right[source])
        largest = max(map(abs, right.values()))
        np.testing.assert_allclose([s for _, s in shown], [right[n] for n, _ in shown], atol=0.006 * largest)
    scores = (np.array([[by[name] for name in NAMES]]) for by in (influence, probing))
    figures = agreement(*scores, covariates={"bm25": probed[1]}).per_query[0]
    assert figures.spearman is not None and figures.kendall is not None
    assert f"rank correlation {figures.spearman:.2g}".replace("-", "−") in agreed
    assert f"Kendall's τ is {figures.kendall:.2g}".replace("-", "−") in agreed
    assert "Unrelated orders of 7 sources come to between −0.8 and 0.8 in 19 of 20 cases." in agreed
    assert f"{figures.partial['bm25']:.2g} with BM25".replace("-", "−") in agreed and "by chance it would be" in agreed
    points = page.locator(".point")
    expect(points).to_have_count(len(NAMES))
    places = [(float(p.get_attribute("cx") or ""), -float(p.get_attribute("cy") or "")) for p in points.all()]
    names = [
        text(point).split(":")[0] if "<" not in text(point) else text(point).rpartition(": ")[0]
        for point in points.all()
    ]
    for axis, right in ((0, influence), (1, probing)):
        order = sorted(range(len(names)), key=lambda i: places[i][axis])
        assert [right[names[i]] for i in order] == sorted(right[name] for name in names)
    picture = page.get_by_role("img", name="Scatter plot of 7 sources, influence against in-context probing")
    expect(picture).to_be_visible()
    assert f"{figures.spearman:.2g}".replace("-", "−") in (picture.get_attribute("aria-label") or "")


def test_documents_that_moved_the_answer_most(page: Page, probed: Any) -> None:
    open_query(page)
    compare(page)
    documents = page.locator(".documents li")
    expect(documents).to_have_count(6)
    strongest = sorted(zip(probed[0].passages, probed[0].scores, strict=True), key=lambda each: -abs(each[1]))
    for shown, (passage, score) in zip(documents.all(), strongest, strict=False):
        assert f"{passage.source} · {passage.document}" in text(shown)
        assert number(text(shown.locator(".key")).removesuffix(" nats")) == pytest.approx(
            float(score), abs=0.006 * float(abs(strongest[0][1]))
        )
        expect(shown).to_contain_text("made the answer likelier" if score > 0 else "made it less likely")
    assert page.locator("body img, body script").count() == 0


def test_texts_of_documents_stay_texts(page: Page) -> None:
    open_query(page, da.Query(prompt="a", completion=" img src=x onerror=alert(2)"))
    compare(page)
    page.get_by_role("list", name="By influence").get_by_role("button").filter(has_text="ant").click()
    expect(page.locator(".documents")).to_contain_text(f"ant {IMAGE}"[:32])
    assert page.locator("body img, body script").count() == 0


def test_a_source_is_chosen_by_keyboard_in_both(page: Page) -> None:
    open_query(page)
    compare(page)
    page.mouse.move(0, 0)  # a source that comes to lie under the pointer is marked as well
    lists = [page.get_by_role("list", name=name) for name in ("By influence", "By in-context probing")]
    first = lists[0].get_by_role("button").first
    first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    name = text(lists[0].get_by_role("button").nth(1).locator(".name"))
    for each in lists:
        expect(each.locator("[aria-pressed=true] .name")).to_have_text(name)
    expect(page.locator(".point.marked")).to_have_count(1)
    assert text(page.locator(".point.marked")).startswith(f"{name}: ")
    expect(page.locator(".point-name")).to_have_text(name)
    expect(page.locator("#documents h4")).to_have_text(f"What was read of {name}")
    assert {text(b) for b in page.locator(".documents b").all()} == {name}
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.querySelector('.name')?.textContent")
    assert focused == name, "Tab leads to the same source in the other ranking"
    page.keyboard.press("Escape")
    expect(page.locator("#comparison [aria-pressed=true]")).to_have_count(0)
    expect(page.locator("#documents h4")).to_have_text("Documents that moved the answer most")


def test_what_the_model_wrote_is_compared_too(page: Page) -> None:
    page.get_by_label("Prompt").fill("the state")
    page.get_by_role("radio", name="The model writes it").check()
    page.get_by_label("Most tokens").fill("4")
    page.get_by_role("button", name="Let it answer").click()
    compare(page)
    assert len(ranking(page, "By in-context probing")) == len(NAMES)


def test_why_there_is_no_comparison(page: Page) -> None:
    button = page.get_by_role("button", name="Compare with in-context probing")
    open_query(page, da.Query(prompt="the state", completion=" is strong", baseline=" is weak"))
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description(
        "Probing does not compare two answers: ask again without the other one."
    )
    page.goto("/")
    open_query(page, top=1)
    expect(button).to_be_disabled()
    expect(button).to_have_accessible_description("A comparison ranks sources, and only one is shown.")


def test_an_error_leaves_the_attribution_and_may_be_mended(page: Page, store: da.InfluenceStore) -> None:
    corpus = Path(store.manifest.run.corpus.path or "")
    content = corpus.read_bytes()
    open_query(page)
    compare(page)
    corpus.unlink()
    try:
        os.kill(processes("ray::ProbingActor")[0], signal.SIGKILL)
        page.get_by_role("button", name="Compare with in-context probing").click()
        problem = page.locator("#comparison").get_by_role("alert")
        expect(problem).to_contain_text("Not compared: Conflict", timeout=LONG)
        expect(problem).to_contain_text(store.manifest.corpus[:12])
        expect(problem).to_contain_text("status 409 · request ")
        expect(page.locator("#answer .view .source")).to_have_count(len(NAMES))
    finally:
        corpus.write_bytes(content)
    page.wait_for_timeout(11_000)  # the service looks again after ten seconds
    compare(page)
    expect(problem).to_be_empty()


def test_a_comparison_is_given_up(page: Page) -> None:
    open_query(page)
    # Both at once, so that no answer comes in between.
    page.locator("#comparison").evaluate("part => part.querySelectorAll('.actions button').forEach(one => one.click())")
    expect(page.locator("#status")).to_have_text("Aborted.")
    expect(page.locator("#comparison .waiting")).to_be_hidden()
    expect(page.get_by_role("button", name="Compare with in-context probing")).to_be_enabled()
    assert page.locator("#agreement").count() == 0


def test_a_busy_service_is_asked_again(page: Page, endpoint: str) -> None:
    open_query(page)
    compare(page)  # a prober that is still reading its model has the page wait for another reason
    page.goto("/")  # the same address would leave this answer there until the next one takes its place
    page.reload()
    open_query(page)
    button = page.get_by_role("button", name="Compare with in-context probing")
    waited = page.locator("#comparison .waiting").get_by_text("Trying again in")
    said: list[str] = []
    with kept_busy(endpoint):
        for _ in range(20):  # a comparison may find the moment between two of the others' questions
            button.click()
            expect(waited.or_(page.locator("#compare:enabled"))).to_be_visible()
            if said := waited.all_text_contents():
                break
    assert "are let in at once" in said[0]
    # The service may say to come again in up to 30 seconds.
    expect(button).to_be_enabled(timeout=LONG)
    expect(page.locator("#agreement")).to_be_visible()
    expect(waited).to_be_hidden()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everybody_can_compare(colours: Literal["light", "dark"], width: int, browser: Browser, endpoint: str) -> None:
    # What the checker itself runs is not the page's, and needs no policy against it.
    with browser.new_context(
        base_url=endpoint, viewport={"width": width, "height": 800}, color_scheme=colours, bypass_csp=True
    ) as context:
        page = with_key(context)
        open_query(page)
        compare(page)
        page.locator("#comparison .source").nth(2).click()
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        edge = page.locator(".scatter").bounding_box()
        assert edge is not None and edge["x"] + edge["width"] <= width
        # Of one unit of the picture; its words are 11 units high.
        pixels = page.locator(".scatter").evaluate("picture => picture.getScreenCTM().a")
        assert 11 * pixels >= 9, "its words can be read"
