"""The page in a real browser: Chromium, headless."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from pages import BOARD, TABLES, fill

from mixbench.bench import figures
from mixbench.bench.cells import Store
from mixbench.bench.page import write

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not DRIVER,
    reason="there is no chromium: apt-get install chromium chromium-driver",
)

Browser = webdriver.Chrome
SHOWN = (
    "return [...document.querySelectorAll('.board tbody tr')]"
    ".filter(row => !row.hidden).map(row => row.cells[0].dataset.name)"
)
PGD = ["multimix", "mixup", "cutmix", "baseline"]
UNCOUNTED = ["manifold", "transmix"]
CONTRAST = """
const ratio = (a, b) => {
  const light = (rgb) => {
    const [r, g, b] = rgb.map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [x, y] = [light(a), light(b)];
  return (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
};
const rgba = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (node) => {
  for (let each = node; each; each = each.parentElement) {
    const [r, g, b, a = 1] = rgba(getComputedStyle(each).backgroundColor);
    if (a === 1) return [r, g, b];
  }
  throw new Error("nothing is behind it");
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const node = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !node.checkVisibility() || node.closest("svg, script")) continue;
  const worst = ratio(rgba(getComputedStyle(node).color).slice(0, 3), behind(node));
  found.push([worst, walker.currentNode.data.trim()]);
}
return found.sort(([a], [b]) => a - b);
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    store = fill(Store(folder / "results"))
    picture = '<svg viewBox="0 0 10 10" width="10pt" height="10pt"><path d="M 0 0 L 9 9"/></svg>'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "svg", lambda *_: picture)
        return write(store, folder, TABLES, store.root / "reported").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(str(DRIVER))
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Browser, address: str) -> Iterator[Browser]:
    """At the page, as wide as a desk's, in light colours. Nothing is complained of in any test."""
    look(chromium, 1400, "light")
    chromium.get_log("performance")
    chromium.get(address)
    chromium.execute_script("localStorage.clear()")
    chromium.get(address)
    yield chromium
    assert chromium.get_log("browser") == []
    assert {*requests(chromium)} == {address}


def look(browser: Browser, width: int, scheme: str) -> None:
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wishes = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wishes.items()]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def requests(browser: Browser) -> Iterator[str]:
    """The addresses that were asked for."""
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"].partition("#")[0]
            if not url.startswith("data:"):
                yield url


def one(browser: Browser, selector: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, selector)


def head(browser: Browser, title: str) -> WebElement:
    heads = browser.find_elements(By.CSS_SELECTOR, ".board th:has(> .sort)")
    return next(th for th in heads if " ".join(th.text.split()).startswith(title))


def sort(browser: Browser, title: str) -> None:
    head(browser, title).find_element(By.TAG_NAME, "button").click()


def shown(browser: Browser) -> list[str]:
    methods: list[str] = browser.execute_script(SHOWN)
    return methods


def focused(browser: Browser) -> Any:
    return browser.switch_to.active_element


def test_a_click_sorts_by_number_best_first_and_missing_last(browser: Browser) -> None:
    sort(browser, "PGD error")
    assert shown(browser) == [*PGD, *UNCOUNTED]
    assert head(browser, "PGD error").get_attribute("aria-sort") == "ascending"
    sort(browser, "PGD error")
    assert shown(browser) == [*PGD[::-1], *UNCOUNTED]
    assert head(browser, "PGD error").get_attribute("aria-sort") == "descending"
    sort(browser, "PGD error")
    assert shown(browser) == [*BOARD.methods]
    assert head(browser, "PGD error").get_attribute("aria-sort") == "none"


def test_where_higher_is_better_the_highest_comes_first(browser: Browser) -> None:
    sort(browser, "PGD error")
    sort(browser, "training images/s")
    assert shown(browser)[:2] == ["mixup", "cutmix"]
    assert head(browser, "training images/s").get_attribute("aria-sort") == "descending"
    assert head(browser, "PGD error").get_attribute("aria-sort") == "none"


def test_names_are_sorted_by_keyboard(browser: Browser) -> None:
    head(browser, "method").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert shown(browser) == sorted(BOARD.methods)


def test_the_gain_stays_below(browser: Browser) -> None:
    sort(browser, "PGD error")
    assert browser.execute_script("return document.querySelector('.board table').rows.length") == 9
    last = browser.find_elements(By.CSS_SELECTOR, ".board tr")[-1]
    assert last.text.startswith("Gain")


def test_methods_are_filtered_and_counted(browser: Browser) -> None:
    count = one(browser, ".count")
    assert count.get_attribute("role") == "status"
    assert count.text == "6 of 6 methods shown"
    search = one(browser, "input[type=search]")
    search.send_keys("MIX")
    assert shown(browser) == ["mixup", "cutmix", "multimix", "transmix"]
    assert count.text == "4 of 6 methods shown"
    one(browser, ".numbered").click()
    assert shown(browser) == ["mixup", "cutmix", "multimix"]
    search.send_keys(Keys.BACKSPACE * 3)
    assert shown(browser) == ["baseline", "mixup", "cutmix", "multimix"]


def test_columns_can_be_hidden(browser: Browser) -> None:
    one(browser, ".columns summary").click()
    one(browser, ".columns input").click()
    assert not [th for th in browser.find_elements(By.TAG_NAME, "th") if "PGD" in th.text]
    assert head(browser, "top-1 error").is_displayed()
    sort(browser, "top-1 error")
    assert shown(browser)[:2] == ["mixup", "baseline"]


def test_what_is_reported_is_shown_when_asked_for(browser: Browser) -> None:
    reported, toggle = one(browser, "td .reported"), one(browser, ".show-reported")
    assert not reported.is_displayed()
    toggle.click()
    assert reported.is_displayed() and toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert not reported.is_displayed() and toggle.get_attribute("aria-pressed") == "false"


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_provenance_opens_and_escape_gives_the_focus_back(by: str, browser: Browser) -> None:
    dialog, button = one(browser, "dialog"), one(browser, "td .cell")
    assert not dialog.is_displayed()
    button.click() if by == "mouse" else button.send_keys(Keys.ENTER)
    assert dialog.is_displayed()
    assert dialog.find_element(By.TAG_NAME, "h2").text == "baseline: FGSM error, %"
    rows = [row.text for row in dialog.find_elements(By.CSS_SELECTOR, "tbody tr")]
    assert len(rows) == 3 and rows[1].startswith("1 41 1.25 1.25 cpu of a test 9.9.9 abc1234")
    assert rows[1].endswith("2026-01-02 03:04:05 UTC digits/small/baseline/1/robustness.json")
    assert "mixbench run board" in dialog.text and "recipe.epochs" in dialog.text
    assert focused(browser).text == "Close"
    focused(browser).send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert focused(browser) == button


def test_a_number_that_there_can_t_be_says_why(browser: Browser) -> None:
    browser.find_elements(By.CSS_SELECTOR, ".board tbody tr")[-1].find_element(
        By.CSS_SELECTOR, "td .cell"
    ).click()
    assert "n/a: it needs the class token's attention" in one(browser, "dialog").text
    one(browser, "dialog .close").click()
    assert not one(browser, "dialog").is_displayed()


def test_provenance_tells_what_was_reported(browser: Browser) -> None:
    one(browser, ".show-reported").click()
    one(browser, "td:has(.reported) .cell").click()
    text = one(browser, "dialog").text
    assert "arXiv 0000.00000" in text and "std: a digit may be lost" in text and "+0.25" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(scheme: str, browser: Browser) -> None:
    look(browser, 1400, scheme)
    one(browser, ".show-reported").click()
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = true)"
    )
    worst = browser.execute_script(CONTRAST)
    assert len(worst) > 100
    assert worst[0][0] >= 4.5, worst[:3]
    one(browser, "td .cell").click()
    worst = browser.execute_script(CONTRAST)
    assert worst[0][0] >= 4.5, worst[:3]


def test_the_theme_is_the_system_s_until_it_is_chosen(browser: Browser) -> None:
    def ground() -> Any:
        return browser.execute_script("return getComputedStyle(document.body).backgroundColor")

    light = ground()
    look(browser, 1400, "dark")
    dark = ground()
    assert dark != light
    theme = one(browser, "#theme")
    assert theme.get_attribute("aria-label") == "Light theme"
    theme.click()
    assert ground() == light and theme.get_attribute("aria-label") == "Dark theme"
    browser.refresh()
    assert ground() == light


@pytest.mark.parametrize("width", [320, 375, 800])
def test_a_narrow_page_scrolls_its_tables_and_not_itself(width: int, browser: Browser) -> None:
    look(browser, width, "light")
    browser.execute_script(
        "document.querySelectorAll('details').forEach((each) => each.open = true)"
    )
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0
    box = one(browser, ".board .scroll")
    scrolled = browser.execute_script(
        "const [box] = arguments; box.scrollLeft = 150;"
        "return box.querySelector('tbody th').getBoundingClientRect().left"
        " - box.getBoundingClientRect().left",
        box,
    )
    assert browser.execute_script("return arguments[0].scrollLeft", box) == 150
    assert 0 <= scrolled <= 2, "the methods stay where they are"


def test_the_page_can_be_read_without_scripts(browser: Browser) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.refresh()
        assert one(browser, ".board tbody").text.count("\n") >= 5
        assert one(browser, ".reported").is_displayed()
        assert not one(browser, ".controls").is_displayed()
        assert not one(browser, "#theme").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
