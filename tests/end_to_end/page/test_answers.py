"""What the page shows of an answer, against what the library says."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, expect

import dist_attr as da
from tests.end_to_end.page.conftest import FORMULA, IMAGE, NAMES, SCRIPT

QUERY = da.Query(prompt="the state of", completion=" our union")


def open_query(page: Page, query: da.Query = QUERY, **options: str | int) -> None:
    baseline = {} if query.baseline is None else {"baseline": query.baseline}
    asked = {"by": "me", "prompt": query.prompt, "completion": query.completion, **baseline, **options}
    page.goto(f"/#{urlencode(asked)}")
    expect(page.locator("#answer")).to_be_visible()


def ranked(page: Page) -> list[tuple[str, float]]:
    """Names and scores as they are shown."""
    rows = page.locator(".source").all()
    return [
        (text(row.locator(".name")), float(text(row.locator(".score")).split("±")[0].replace("−", "-"))) for row in rows
    ]


def text(element: Locator) -> str:
    found = element.text_content()
    assert found is not None
    return found


def assert_ranked(page: Page, names: list[str], scores: NDArray[np.floating[Any]]) -> None:
    found = ranked(page)
    assert [name for name, _ in found] == [names[row] for row in np.argsort(-scores)]
    shown = [dict(found)[name] for name in names]
    np.testing.assert_allclose(shown, scores, atol=0.006 * float(np.abs(scores).max()))


def test_the_page_shows_what_the_library_says(page: Page, attributor: da.Attributor, store: da.InfluenceStore) -> None:
    page.get_by_label("Prompt").fill(QUERY.prompt)
    page.get_by_role("textbox", name="Answer", exact=True).fill(QUERY.completion)
    page.get_by_role("button", name="Find the sources").click()
    expect(page.locator(".source")).to_have_count(len(NAMES))
    local = attributor.attribute([QUERY])
    assert_ranked(page, local.sources, local.scores[0])
    assert text(page.locator("#tokens")) == QUERY.completion
    expect(page.get_by_role("status").first).to_contain_text(f"{len(NAMES)} sources ranked")
    expect(page.locator("#measured")).to_contain_text("11 models retrained with the same seed, each without 2 sources")
    expect(page.locator("#measured")).to_contain_text("LDS 0.9, 95 % interval 0.8 to 0.95")
    expect(page.locator("#limits")).to_contain_text("cover 100 % of the model's parameters")
    assert store.manifest.model is not None
    for fact in (store.manifest.identity, store.manifest.model.weights, "int8"):
        expect(page.locator("#answer")).to_contain_text(fact)
    for row, (_, score) in zip(page.locator(".source").all(), ranked(page), strict=True):
        zero, bar = row.locator(".zero").bounding_box(), row.locator(".bar").bounding_box()
        assert zero is not None and bar is not None
        edge = bar["x"] if score > 0 else bar["x"] + bar["width"]
        assert abs(edge - zero["x"]) < 2, "a bar begins at the zero line, and goes to its own side"


def test_a_source_colours_the_tokens(page: Page, attributor: da.Attributor) -> None:
    open_query(page)
    local = attributor.attribute([QUERY])
    token, rounding = page.locator(".token").nth(3), 0.006 * float(np.abs(local.token_scores[0]).max())

    def assert_coloured_by(name: str) -> None:
        score = local.token_scores[0][local.sources.index(name)][3]
        expect(page.locator(".legend")).to_contain_text(f"What {name} did to each token")
        title = token.get_attribute("title") or ""
        assert title.startswith("+" if score > 0 else "−") and f"nats by {name}" in title
        assert float(title.split(" ")[0].replace("−", "-")) == pytest.approx(score, abs=rounding)
        assert title in (token.get_attribute("aria-label") or "")
        expect(token).to_contain_class("proponent" if score > 0 else "opponent")

    strongest = local.sources[int(np.argmax(np.abs(local.scores[0])))]
    assert_coloured_by(strongest)
    first, last = page.locator(".source").first, page.locator(".source").last
    other = first if text(first.locator(".name")) != strongest else last
    name = text(other.locator(".name"))
    other.hover()
    assert_coloured_by(name)
    page.locator("h1").hover()
    assert_coloured_by(strongest)
    other.click()
    expect(other).to_have_attribute("aria-pressed", "true")
    page.locator("h1").hover()
    other.blur()
    assert_coloured_by(name)


def test_a_token_ranks_the_sources(page: Page, attributor: da.Attributor) -> None:
    open_query(page)
    local = attributor.attribute([QUERY])
    page.locator(".token").nth(2).click()
    expect(page.locator("#ranked-for")).to_have_text(f"Sources of the token “{QUERY.completion[2]}”")
    assert_ranked(page, local.sources, local.token_scores[0][:, 2])
    page.get_by_role("button", name="Whole answer").click()
    assert_ranked(page, local.sources, local.scores[0])


def test_the_keyboard_reaches_all(page: Page) -> None:
    open_query(page)
    page.get_by_role("textbox", name="Answer", exact=True).focus()
    page.keyboard.press("Control+Enter")
    expect(page.locator("#ask")).to_be_enabled()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.locator(".token").first.evaluate("token => token === document.activeElement"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".token").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator("#ranked-for")).to_have_text("Sources of the whole answer")
    expect(page.locator(".token").nth(1)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    expect(page.locator(".source").last).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press(" ")
    expect(page.locator(".source").nth(-2)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Escape")
    expect(page.locator(".source[aria-pressed=true]")).to_have_count(0)


def test_the_model_answers_and_a_link_repeats_it(page: Page, endpoint: str) -> None:
    page.get_by_label("Prompt").fill("the state")
    page.get_by_role("radio", name="The model writes it").check()
    page.get_by_label("Most tokens").fill("6")
    page.get_by_label("Temperature").fill("1")
    page.get_by_role("button", name="Let it answer").click()
    expect(page.get_by_role("heading", name="The model's answer")).to_be_visible()
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.get_by_text("The answer is copied.")).to_be_visible()
    answer = json.loads(page.evaluate("navigator.clipboard.readText()"))
    tokens = [text(token) for token in page.locator(".token").all()]
    assert tokens == [token.replace("\n", "⏎\n") for token in answer["choices"][0]["logprobs"]["tokens"]]
    expect(page.get_by_role("textbox", name="Answer", exact=True, include_hidden=True)).to_have_value(
        answer["choices"][0]["text"]
    )
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("The link is copied.")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{endpoint}/#") and "seed=" in link
    other = page.context.new_page()
    other.goto(link)
    expect(other.locator(".source")).to_have_count(len(NAMES))
    assert [text(token) for token in other.locator(".token").all()] == tokens
    assert ranked(other) == ranked(page)


def test_scores_of_a_basis_come_with_their_errors(page: Page, store: da.InfluenceStore) -> None:
    open_query(page, rank=2)
    local = da.Attributor(store, rank=2).attribute([QUERY])
    assert local.errors is not None
    assert_ranked(page, local.sources, local.scores[0])
    first = local.sources.index(text(page.locator(".source .name").first))
    error = text(page.locator(".source .score").first).split("± ")[1]
    assert float(error) == pytest.approx(local.errors[0, first], rel=0.05)
    expect(page.locator(".whisker")).to_have_count(len(NAMES))
    expect(page.locator("#limits")).to_contain_text("2 directions of the store's readout basis")


def test_a_baseline_and_the_strongest_sources_only(page: Page, attributor: da.Attributor) -> None:
    query = da.Query(prompt="the state", completion=" is strong", baseline=" is weak")
    open_query(page, query, top=2)
    local = attributor.attribute([query])
    top = sorted(np.argsort(-np.abs(local.scores[0]))[:2], key=lambda row: -local.scores[0, row])
    assert [name for name, _ in ranked(page)] == [local.sources[row] for row in top]
    expect(page.locator("#answer")).to_contain_text(f"2 of {len(NAMES)} sources")
    expect(page.locator("#answer")).to_contain_text("of the other answer")


def test_texts_stay_texts(page: Page) -> None:
    open_query(page, da.Query(prompt=SCRIPT, completion=IMAGE))
    assert text(page.locator(".text")) == SCRIPT + IMAGE
    assert {SCRIPT, IMAGE} <= {name for name, _ in ranked(page)}
    page.locator(".source", has_text=IMAGE).click()
    page.locator(".token").first.click()
    assert page.locator("body img, body script").count() == 0


def test_a_table_to_take_away(page: Page, attributor: da.Attributor) -> None:
    open_query(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    local = attributor.attribute([QUERY])
    assert rows[0][:5] == ["source", "score", "error", "1:  ", "2: o"]
    found = {row[0]: row for row in rows[1:]}
    assert f"'{FORMULA}" in found, "a spreadsheet would run it"
    row = found["dog, and a comma"]
    index = local.sources.index("dog, and a comma")
    assert float(row[1]) == pytest.approx(local.scores[0, index], rel=1e-3)
    np.testing.assert_allclose([float(cell) for cell in row[3:]], local.token_scores[0][index], rtol=1e-3, atol=1e-4)
