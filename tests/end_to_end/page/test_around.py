"""The page around its answers: keys, a busy service, errors, light and dark, who can use it, and what is served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from dist_attr.config import ServiceConfig
from dist_attr.serving import deploy
from dist_attr.serving.page import FILES, INDEX
from tests.end_to_end.page.conftest import KEY, NAMES, RANK, with_key

PARTS = sorted(set(FILES) - {INDEX})


def ask(page: Page, prompt: str = "the state", completion: str = " of fear") -> None:
    page.get_by_label("Prompt").fill(prompt)
    page.get_by_role("textbox", name="Answer", exact=True).fill(completion)
    page.get_by_role("button", name="Find the sources").click()


@contextmanager
def kept_busy(endpoint: str) -> Iterator[None]:
    """The service answers others meanwhile, as many as it lets in."""
    done = threading.Event()
    body = {"queries": [{"completion": "the state of the union is strong"}] * 16, "readout": "counterfactual"}

    def keep_asking() -> None:
        with httpx.Client(base_url=endpoint, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
            while not done.is_set():
                client.post("/v1/attributions", json=body)

    others = [threading.Thread(target=keep_asking) for _ in range(2)]
    for other in others:
        other.start()
    try:
        yield
    finally:
        done.set()
        for other in others:
            other.join()


def ask_until_busy(page: Page) -> Locator:
    """A question may find the moment between two of the others', and is asked again then."""
    waited = page.get_by_text("Trying again in")
    for _ in range(20):
        ask(page)
        expect(waited.or_(page.locator(".source").first)).to_be_visible()
        if waited.is_visible():
            break
        page.goto("/")
        page.reload()  # without what is asked in the address
    return waited


def test_an_error_is_shown_as_the_service_says_it(page: Page) -> None:
    ask(page, prompt="the " * 30)
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("Unprocessable")
    expect(problem).to_contain_text("do not fit the model's context of 64 tokens")
    expect(problem).to_contain_text("status 422 · request ")
    ask(page)
    expect(problem).to_be_empty()
    expect(page.locator(".source")).to_have_count(len(NAMES))


def test_a_key_is_asked_for_and_kept_in_the_tab(stranger: BrowserContext) -> None:
    page = stranger.new_page()
    page.goto("/")
    field = page.get_by_label("Key of the service")
    expect(page.get_by_role("alert")).to_contain_text("a key is needed")
    field.fill("another key, and a wrong one")
    page.get_by_role("button", name="Use it").click()
    expect(field).to_be_empty()
    expect(page.get_by_role("alert")).to_contain_text("a key is needed")
    field.fill(KEY)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#served")).to_contain_text(f"{len(NAMES)} sources")
    ask(page)
    expect(page.locator(".source")).to_have_count(len(NAMES))
    # By number: an item of the name "key" is hidden by the method `key`.
    stored = (
        "Array.from({length: localStorage.length}, (_, index) => localStorage.getItem(localStorage.key(index))).join()"
    )
    assert KEY not in page.url + page.evaluate(f"{stored} + document.cookie")
    other = stranger.new_page()
    other.goto("/")
    expect(other.get_by_label("Key of the service")).to_be_visible()
    page.reload()
    expect(page.locator(".source")).to_have_count(len(NAMES))
    page.get_by_role("button", name="Forget the key").click()
    page.reload()
    expect(field).to_be_visible()


def test_a_busy_service_is_asked_again(page: Page, endpoint: str) -> None:
    with kept_busy(endpoint):
        waited = ask_until_busy(page)
        expect(waited).to_contain_text("are let in at once")
    # The service may say to come again in up to 30 seconds.
    expect(page.locator(".source")).to_have_count(len(NAMES), timeout=90_000)
    expect(waited).to_be_hidden()


@pytest.mark.parametrize("way", ["button", "escape"])
def test_a_question_is_given_up(way: str, page: Page, endpoint: str) -> None:
    with kept_busy(endpoint):
        waited = ask_until_busy(page)
        if way == "button":
            page.get_by_role("button", name="Abort").click()
        else:
            page.keyboard.press("Escape")
        expect(page.locator("#status")).to_have_text("Aborted.")
        expect(waited).to_be_hidden()
        expect(page.get_by_role("button", name="Find the sources")).to_be_enabled()
    assert page.locator(".source").count() == 0


@pytest.fixture
def basis_only(endpoint: str, config: ServiceConfig) -> Iterator[None]:
    """The same service, with the directions of the basis and no source's own tangent, and without probing."""
    port = int(endpoint.rpartition(":")[2])
    deploy(config.model_copy(update={"hold": "basis", "probing": None}), port=port)
    yield
    deploy(config, port=port)


def test_a_service_of_a_basis_alone_needs_a_rank(stranger: BrowserContext, basis_only: None) -> None:
    page = with_key(stranger)
    rank = page.get_by_label("Directions of the basis")
    expect(rank).to_be_visible()
    ask(page)
    expect(rank).to_be_focused()
    assert page.locator(".source").count() == 0
    expect(page.locator("option[value=counterfactual]")).to_be_disabled()
    rank.fill(str(RANK))
    ask(page)
    expect(page.locator(".whisker")).to_have_count(len(NAMES))
    compare = page.get_by_role("button", name="Compare with in-context probing")
    expect(compare).to_be_disabled()
    expect(compare).to_have_accessible_description("This service does not probe: it was started without.")


def background(page: Page) -> tuple[int, ...]:
    colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return tuple(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))


def test_light_and_dark(page: Page) -> None:
    button = page.get_by_role("button", name="Dark")
    assert min(background(page)) > 200
    page.emulate_media(color_scheme="dark")
    assert max(background(page)) < 60
    expect(button).to_have_attribute("aria-pressed", "true")
    button.click()
    assert min(background(page)) > 200
    page.reload()
    assert min(background(page)) > 200, "the choice is kept"
    expect(button).to_have_attribute("aria-pressed", "false")


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everybody_can_use_it(colours: Literal["light", "dark"], width: int, browser: Browser, endpoint: str) -> None:
    # What the checker itself runs is not the page's, and needs no policy against it.
    with browser.new_context(
        base_url=endpoint, viewport={"width": width, "height": 800}, color_scheme=colours, bypass_csp=True
    ) as context:
        page = context.new_page()
        page.goto("/")
        expect(page.get_by_label("Key of the service")).to_be_visible()
        assert_accessible(page)
        page.get_by_label("Key of the service").fill(KEY)
        page.get_by_role("button", name="Use it").click()
        page.locator("summary").click()
        ask(page)
        expect(page.locator(".source")).to_have_count(len(NAMES))
        expect(page.get_by_role("heading", name="Answer", exact=True)).to_be_in_viewport()
        page.locator(".token").nth(2).click()
        assert_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def assert_accessible(page: Page) -> None:
    found: dict[str, Any] = Axe().run(page).response
    assert [f"{rule['id']}: {rule['nodes'][0]['html']}" for rule in found["violations"]] == []
    assert len(found["passes"]) > 20


def test_the_page_may_load_nothing_from_elsewhere(endpoint: str) -> None:
    answer = httpx.get(endpoint)
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'self'", "frame-ancestors 'none'"} <= {each.strip() for each in policy.split(";")}
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "/page/" not in httpx.get(f"{endpoint}/openapi.json").text


@pytest.mark.parametrize("name", PARTS)
def test_a_part_is_served_as_what_it_is(name: str, endpoint: str) -> None:
    answer = httpx.get(f"{endpoint}/page/{name}")
    assert answer.content == FILES[name]
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    assert answer.headers["content-type"].split(";")[0] == kinds[name.rpartition(".")[2]]
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(f"{endpoint}/page/{name}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../page.py", "..%2Fpage.py", "%2e%2e%2fpage.py", "index.html", "a.js", "", "%00"])
def test_nothing_else_is_served(name: str, endpoint: str) -> None:
    # As it stands, without what a client would tidy up.
    url = httpx.URL(endpoint).copy_with(raw_path=f"/page/{name}".encode())
    assert httpx.get(url).status_code == 404
