"""The page in a real Chromium."""

import pytest

from onnxprune.document.write import write_report
from tests.document.browser import CHROMIUM, DRIVER, Browser

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or chromedriver on this machine")

COLUMN = "return [...document.querySelectorAll('#groups-1 tbody tr')].map(r => r.cells[arguments[0]].textContent.trim())"


@pytest.fixture(scope="module")
def page(folder, bench_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report([folder / "prune.json", bench_file], path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_loads_and_fits(browser, page, width, scheme, tmp_path):
    browser.open(page, width, scheme)
    assert browser.console() == [] and browser.requests() == []
    assert browser.run("return document.documentElement.scrollWidth") <= width
    shown = "return [...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).length"
    assert browser.run(shown) == 2
    # Text of charts lies within them, and nothing that is shown stands out of the page.
    outside = """
    const out = [];
    for (const t of document.querySelectorAll('svg text')) {
      const [a, b] = [t.getBoundingClientRect(), t.closest('svg').getBoundingClientRect()];
      if (b.width && (a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 1)) out.push(t.textContent);
    }
    for (const e of document.querySelectorAll('main *')) {
      const r = e.getBoundingClientRect();
      if (r.width && r.right > innerWidth + 1 && !e.closest('.scroll')) out.push(e.outerHTML.slice(0, 80));
    }
    for (const s of document.querySelectorAll('.scroll')) if (s.scrollWidth > s.clientWidth + 1) out.push(s.textContent.slice(0, 80));
    return out;
    """
    assert browser.run(outside) == []
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_sorting_with_a_pointer_and_with_keys(browser, page):
    browser.open(page, 1280)
    before = browser.run(COLUMN, 3)
    browser.run("document.querySelectorAll('#groups-1 thead button')[3].click()")
    state = "return [...document.querySelectorAll('#groups-1 thead th')].map(h => h.getAttribute('aria-sort'))"
    assert browser.run(state)[3] == "ascending"
    assert browser.run(COLUMN, 3) == sorted(before, key=int)
    browser.run("document.querySelectorAll('#groups-1 thead button')[3].focus()")
    browser.press("Enter")
    assert browser.run(state)[3] == "descending"
    assert browser.run(COLUMN, 3) == sorted(before, key=int, reverse=True)
    browser.run("document.querySelectorAll('#groups-1 thead button')[0].click()")
    assert browser.run(state).count("none") == len(browser.run(state)) - 1


def test_words_are_sorted_as_people_do(browser, page):
    browser.open(page, 1280)
    browser.run("document.querySelectorAll('#machines thead button')[0].click()")
    rows = browser.run("return [...document.querySelectorAll('#machines tbody tr')].map(r => r.cells[1].textContent.trim())")
    assert len(rows) > 5 and rows == browser.run(
        "return [...arguments[0]].sort(new Intl.Collator(undefined, {numeric: true}).compare)", rows
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_toggle(browser, page, scheme):
    browser.open(page, 1280, scheme)
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = browser.run(colour)
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) != before
    browser.run("document.getElementById('theme').click()")
    assert browser.run(colour) == before


def test_names_are_not_run(browser, page):
    browser.open(page, 1280)
    assert browser.run("return document.querySelectorAll('script').length") == 1
    assert browser.run("return document.querySelectorAll('img').length") == 0


def test_text_has_contrast(browser, page):
    """At least 4.5 between text and what lies behind it, in both schemes (WCAG 2.2, 1.4.3)."""
    contrast = """
    const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => (x /= 255) <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
      return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
    const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c; } };
    const low = [];
    for (const e of document.querySelectorAll('main *, header *')) {
      if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.getBoundingClientRect().width) continue;
      const s = getComputedStyle(e), [a, b] = [light(e.closest('svg') ? s.fill : s.color), light(behind(e))];
      const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
      if (ratio < 4.5) low.push([e.textContent.trim().slice(0, 40), ratio]);
    }
    return low;
    """
    for scheme in ("light", "dark"):
        browser.open(page, 1280, scheme)
        assert browser.run(contrast) == []
