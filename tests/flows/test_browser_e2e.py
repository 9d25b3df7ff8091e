"""A person's way through both UIs, in a real browser: fill in the form, run, wait, follow the link, see the accuracy."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Error, Locator, Page, expect, sync_playwright
from prefect_runs import deployment, flow_run
from trainings import result

from flows import runs
from flows.lab.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(600),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)"),
]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PATIENCE = 60_000  # ms; two cores serve two servers, a training and the browser


@pytest.fixture
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(PATIENCE)
        try:
            yield page
        finally:
            browser.close()


@pytest.fixture
def picture(page: Page) -> Callable[[str], None]:
    """Saves what the browser shows, in the folder that LAB_TEST_SCREENSHOTS names; nowhere without it."""
    folder = os.environ.get("LAB_TEST_SCREENSHOTS")

    def save(name: str) -> None:
        if folder:
            page.screenshot(path=Path(folder) / f"{name}.png")

    return save


def field(page: Page, name: str) -> Locator:
    """The form's field for the parameter `name`."""
    label = page.locator(".schema-form-property__label", has_text=re.compile(rf"^{name} "))
    return page.locator(".schema-form-property").filter(has=label).last


def choose(page: Page, name: str, choice: str) -> None:
    """Open the drop-down of the parameter `name` by its arrow (a click on its text closes it at once) and take `choice`."""
    field(page, name).locator(".p-select-button__icon").click()
    page.locator(".p-select-option").filter(has_text=re.compile(rf"^\s*{choice}\s*$")).click()
    expect(field(page, name).locator(".p-select-button__value")).to_have_text(choice)


def submit(page: Page) -> None:
    """Press Submit, and go to the new run's page. Prefect's server may be too busy to take it; then a person presses again."""
    for _ in range(3):
        page.get_by_role("button", name="Submit").click()
        try:
            page.get_by_role("button", name="View run").last.click(timeout=PATIENCE / 4)  # the notice is there twice
        except Error:
            continue
        return
    pytest.fail("the form was not taken")


def test_from_the_form_to_the_accuracy(running_lab: Settings, page: Page, picture: Callable[[str], None]) -> None:
    page.goto(f"{running_lab.prefect_ui}/deployments/deployment/{deployment(running_lab, 'train/train')['id']}/run")
    choose(page, "experiment", "mlp_digits")
    choose(page, "optimizer", "nesterov")
    overrides = field(page, "overrides")
    overrides.get_by_role("button", name="Add item").click()
    overrides.get_by_role("textbox").fill("trainer.epochs=2")
    picture("form")
    submit(page)
    page.wait_for_url(re.compile(r"/runs/flow-run/"))
    identity = page.url.partition("/flow-run/")[2].partition("?")[0].strip("/")
    expect(page.locator(".page-heading-flow-run .state-badge")).to_have_text(re.compile("Completed"), timeout=180_000)
    picture("flow_run")
    run = flow_run(running_lab, identity)
    assert run["parameters"] == {
        **run["parameters"],
        "experiment": "mlp_digits",
        "optimizer": "nesterov",
        "overrides": ["trainer.epochs=2"],
    }

    page.locator("#artifacts").click()
    artifact = page.locator(".artifact-card", has_text="mlflow-run")
    artifact.scroll_into_view_if_needed()
    picture("artifacts")
    artifact.click()
    link = page.get_by_role("link", name=re.compile("in MLflow"))
    expect(link).to_be_visible()
    picture("link")
    name = (link.text_content() or "").partition(" ")[0].strip()
    page.goto(str(link.get_attribute("href")))
    expect(page.get_by_text(name).first).to_be_visible()
    found = result(runs.find(name, running_lab))
    assert found["steps"] == 80, "the override was heeded"
    row = page.get_by_role("row").filter(has_text=re.compile(r"^summary/test/accuracy"))
    expect(row).to_contain_text(str(found["metrics"]["test/accuracy"]))
    row.scroll_into_view_if_needed()
    picture("mlflow")
