"""One service with keys, and a browser before it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    expect,
    sync_playwright,
)

import dist_attr as da
from dist_attr.config import ProbeConfig, ServiceConfig
from dist_attr.corpus import Document
from dist_attr.serving import deploy, stop
from dist_attr.store import MeasuredFidelity, record_fidelity
from scripts.page_screenshot import FLAGS, browser_path
from tests.end_to_end.conftest import free_port
from tests.readout.test_basis import queries
from tests.stores import make_store

SCRIPT, IMAGE, FORMULA = "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", '=HYPERLINK("x")'
NAMES = (SCRIPT, IMAGE, FORMULA, "ant", "bee", "cat", "dog, and a comma")
# Texts of documents come from anywhere, too.
TEXTS = [
    f"{name} {word}" for name in NAMES for word in ("the state of our union", "is strong, of fear and hope", IMAGE)
]
DOCUMENTS = [Document(f"d{number}", text, NAMES[number // 3], {}) for number, text in enumerate(TEXTS)]
PROBING = ProbeConfig(template="{document}\n{prompt}", window=32, documents=2)
RANK = 5
KEY = "0123456789abcdef-a-key"
MEASURED = MeasuredFidelity(
    truth="this run", readout="linear", dropped=2, retrained=11, queries=6, correlation=0.9, interval=(0.8, 0.95)
)
expect.set_options(timeout=30_000)


@pytest.fixture(scope="package")
def store(tmp_path_factory: pytest.TempPathFactory) -> da.InfluenceStore:
    folder = tmp_path_factory.mktemp("page")
    store = make_store(folder, NAMES, context=64, codec="int8", directions=3, documents=DOCUMENTS)
    da.calibrate(store, queries(20, seed=1), rank=RANK)
    return record_fidelity(store, [MEASURED])


@pytest.fixture(scope="package")
def attributor(store: da.InfluenceStore) -> da.Attributor:
    return da.Attributor(store)


@pytest.fixture(scope="package")
def config(store: da.InfluenceStore, tmp_path_factory: pytest.TempPathFactory) -> ServiceConfig:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    return ServiceConfig(store=store.url, cpus=0.5, surge=False, keys_file=str(keys), most_waiting=1, probing=PROBING)


@pytest.fixture(scope="package")
def endpoint(cluster: None, config: ServiceConfig) -> Iterator[str]:
    port = free_port()
    deploy(config, port=port)
    yield f"http://127.0.0.1:{port}"
    stop()


@pytest.fixture(scope="package")
def browser(endpoint: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def stranger(browser: Browser, endpoint: str) -> Iterator[BrowserContext]:
    """A browser without a key. At the end nothing may have gone wrong, and nothing to another host."""
    context = browser.new_context(base_url=endpoint, permissions=["clipboard-read", "clipboard-write"])
    wrong: list[str] = []

    def said(message: ConsoleMessage) -> None:
        # That an answer of the service is an error, the browser reports by itself.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            wrong.append(message.text)

    def asked(dialog: Dialog) -> None:
        wrong.append(f"a text was run: {dialog.message}")
        dialog.dismiss()

    def requested(request: Request) -> None:
        if not request.url.startswith((endpoint, f"blob:{endpoint}")):
            wrong.append(f"another host was asked: {request.url}")

    context.on("console", said)
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("dialog", asked)
    context.on("request", requested)
    yield context
    context.close()
    assert wrong == []


@pytest.fixture
def page(stranger: BrowserContext) -> Page:
    """The page of someone who has a key."""
    return with_key(stranger)


def with_key(context: BrowserContext) -> Page:
    """The page, opened with a key."""
    # It runs in the empty page too that is there before; that one has no storage.
    context.add_init_script(f"if (location.protocol !== 'about:') sessionStorage.setItem('key', '{KEY}')")
    page = context.new_page()
    page.goto("/")
    return page
