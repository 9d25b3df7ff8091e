"""The page of a report: whole in itself, escaped, and readable at the widths of a phone and of a desk."""

import base64
import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from PIL import Image
from sweep_results import initializers, lecture, messy, optimizer_tuning, results, tpe, trial

from flows.search.page import html
from flows.search.report import figures, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
VOID = {"meta", "img", "br"}
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "ul", "li", "pre"),
    *("figure", "figcaption", "img", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"),
}


class Page(HTMLParser):
    """Tags, attributes and text of a page; every tag that is opened has to be closed, in order."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def page_of(sweep, drawn=None):
    made = report(sweep)
    return html(sweep, made, figures(sweep, made) if drawn is None else drawn)


def test_the_page_needs_nothing_else_and_shows_every_figure():
    sweep = initializers()
    made = report(sweep)
    drawn = figures(sweep, made)
    page = Page(html(sweep, made, drawn))
    assert set(page.tags) <= ALLOWED
    pictures = [value for tag, name, value in page.attributes if name == "src"]
    assert len(pictures) == len(drawn) == 5
    for picture, figure in zip(pictures, drawn.values(), strict=True):
        kind, _, data = picture.partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == tuple(int(side) for side in figure.canvas.get_width_height())
    words = [value for tag, name, value in page.attributes if name == "alt"]
    assert len(words) == 5 and words[0] == "Each level of each factor. Best mean: he_normal (initializer); 5 seeds"
    assert not [value for _, name, value in page.attributes if name in ("href", "action", "onclick") or "http" in (value or "")]


def test_the_verdict_stands_before_figures_and_tables():
    page = page_of(lecture(), drawn={})
    order = [
        "Best of 314 configurations",
        "lab train experiment=mlp_mnist",
        "which is unfair",
        "leaky_relu</td>",
        "level against level",
        "Sampler grid",
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert page.startswith("<!doctype html>") and '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count('<tr class="winner">') == sum(each.beats for factor in report(lecture()).factors for each in factor.comparisons)


def test_names_are_text_whatever_they_hold():
    nasty = "<script>alert(1)</script>&\"'"
    trials = [
        trial(i, {nasty: level}, 0.5 + i / 10, seed) for i, (level, seed) in enumerate((a, s) for a in (nasty, "b") for s in range(3))
    ]
    trials.append(trial(6, {nasty: "b"}, 0.5, 3, state="failed", reason=f"{nasty} in layer 3"))
    sweep = replace(results(trials, factors={nasty: (nasty, "b")}, seeds=3), name=nasty, description=nasty, overrides=(f"a='{nasty}'",))
    shown = page_of(sweep)
    page = Page(shown)
    assert "script" not in page.tags and set(page.tags) <= ALLOWED
    text = "".join(page.texts)
    assert text.count("<script>alert(1)</script>") >= 6
    assert f"{nasty} in layer 3" in text


@pytest.mark.parametrize("sweep", [results(), results(asked=3), results([trial(0, {"a": 1}, 0.5, state="failed", reason="no")])])
def test_a_sweep_without_results_has_a_page_too(sweep):
    page = Page(page_of(sweep))
    assert "img" not in page.tags and ("No trial has ended yet." in page.texts or "The only trial failed: no" in page.texts)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(messy())
def test_no_sweep_is_too_messy_for_a_page(sweep):
    assert set(Page(page_of(sweep)).tags) <= ALLOWED


@pytest.mark.e2e
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here (Debian: apt install chromium)")
@pytest.mark.parametrize("make", [lecture, initializers, optimizer_tuning, tpe])
def test_a_browser_shows_all_of_it_at_the_width_of_a_phone_and_of_a_desk(make, tmp_path):
    from playwright.sync_api import sync_playwright

    file = tmp_path / "report.html"
    file.write_text(page_of(make()), encoding="utf-8")
    with sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=quiet)
        for width in (360, 1280):
            view = browser.new_page(viewport={"width": width, "height": 800})
            asked, errors = [], []
            view.on("request", lambda request, asked=asked: asked.append(request.url))
            view.on("console", lambda message, errors=errors: errors.append(message.text))
            view.goto(file.as_uri())
            assert view.evaluate("document.documentElement.scrollWidth") == width, "nothing but tables scrolls sideways"
            assert view.evaluate("[...document.images].every(image => image.complete && image.naturalWidth === 900)")
            assert view.locator(".verdict li").first.bounding_box()["y"] < 400
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and errors == []
        browser.close()
