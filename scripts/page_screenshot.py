"""Pictures of the service's page: an answer, light and dark, and its comparison with in-context probing.

They are docs/images/page.png, page-dark.png and page-comparison.png.

Needs a browser, Debian's package chromium, and a service that is running.

Example: dist-attr serve runs/demo/influence.zarr
         python -m scripts.page_screenshot --prompt "The state of the union" --completion " is strong."
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated
from urllib.parse import urlencode

import typer
from playwright.sync_api import sync_playwright

from dist_attr.errors import ConfigError

BROWSERS = ("chromium", "google-chrome")
FLAGS = ["--no-sandbox"]  # which a browser cannot have where root runs it, as in containers
WIDTH, HEIGHT = 1200, 860  # pixels
PICTURES = {"page.png": "light", "page-dark.png": "dark"}
COMPARISON = "page-comparison.png"
MARGIN = 16  # pixels
LONG = 300_000  # milliseconds, for documents that are read first


def browser_path() -> str:
    """Where the browser is. Raises ConfigError if there is none."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    raise ConfigError(f"no browser: none of {', '.join(BROWSERS)} is on the PATH; on Debian, apt-get install chromium")


def main(
    prompt: Annotated[str, typer.Option(help="what the model is given")],
    completion: Annotated[str, typer.Option(help="the answer whose sources are shown")],
    endpoint: Annotated[str, typer.Option(help="of the service")] = "http://127.0.0.1:8000",
    rank: Annotated[int | None, typer.Option(help="directions of the basis; by default scores are exact")] = None,
    out: Annotated[Path, typer.Option(help="the folder of the pictures")] = Path("docs/images"),
) -> None:
    asked = {"by": "me", "prompt": prompt, "completion": completion, **({"rank": rank} if rank else {})}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=FLAGS)
        for name, colours in PICTURES.items():
            page = browser.new_page(
                viewport={"width": WIDTH, "height": HEIGHT},
                color_scheme="dark" if colours == "dark" else "light",
            )
            page.goto(f"{endpoint}/#{urlencode(asked)}")
            page.locator("#answer").wait_for()
            page.screenshot(path=out / name)
            print(out / name)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(f"{endpoint}/#{urlencode(asked)}")
        page.get_by_role("button", name="Compare with in-context probing").click()
        page.locator("#agreement").wait_for(timeout=LONG)
        page.locator("#comparison .source").first.click()
        page.locator("h1").hover()
        place = page.locator("#comparison").bounding_box()
        assert place is not None
        page.screenshot(
            path=out / COMPARISON,
            clip={
                "x": place["x"] - MARGIN,
                "y": place["y"] - MARGIN,
                "width": place["width"] + 2 * MARGIN,
                "height": place["height"] + 2 * MARGIN,
            },
            full_page=True,
        )
        print(out / COMPARISON)
        browser.close()


if __name__ == "__main__":
    typer.run(main)
