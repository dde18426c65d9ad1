"""Pictures of the service's page with an answer, light and dark: docs/images/page.png and page-dark.png.

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
        browser.close()


if __name__ == "__main__":
    typer.run(main)
