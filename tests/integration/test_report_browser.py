"""The Pareto page in a real browser: headless Chromium, from a file, without a network."""

import json
import shutil
from pathlib import Path

import pytest

from kd3d.report.pareto import write_report
from kd3d.report.search_record import front, read_search

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver is installed (apt-get install chromium-driver)"
)
HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def candidate(index, state, score, **more):
    macs = 10_000_000 * (index + 3)
    row = {"name": f"student-{index}", "spec": f"candidates/{index}.json", "choice": {"cell": 1.5, "layers": [1, 2]}}
    cost = {
        "params": 90_000 - 7_000 * index,
        "macs": macs,
        "macs_thop": macs + 5,
        "acts": 1000,
        "latency_ms": 40.0 - index,
    }
    trained = {"prior": index / 20, "score": score, "steps": None if score is None else 100, "state": state}
    return {**row, **cost, **trained, **more}


def rows():
    scores = [0.30, 0.28, 0.35, 0.34, 0.41, 0.39, 0.45]
    found = [candidate(index, "complete", score) for index, score in enumerate(scores)]
    found += [candidate(7, "pruned", 0.5), candidate(8, "failed", None), candidate(9, "untrained", None)]
    return [*found, candidate(10, "untrained", None, name=HOSTILE, choice={"<b>": "<i>x</i>"})]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser") / "run"
    (folder / "candidates").mkdir(parents=True)
    for index in range(10):
        (folder / "candidates" / f"{index}.json").write_text("{}")
    teacher = {"name": "big", "params": 100_000, "macs": 500_000_000, "macs_thop": 6, "acts": 9, "mAP": 0.48}
    budget = {"flops": {"text": "30%", "limit": 150_000_000}, "params": {"text": "80K", "limit": 80_000}}
    search = {
        "teacher": teacher,
        "budget": budget,
        "convention": "physical",
        "chosen": "student-6",
        "candidates": rows(),
    }
    (folder / "search.json").write_text(json.dumps(search))
    (folder / "settings.json").write_text(json.dumps({"teacher": "big model", "data": "world"}))
    (folder / "metrics.json").write_text(json.dumps({"teacher": {"mAP": 0.48}, "student": {"mAP": 0.45}}))
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1366,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


class Page:
    """The page as a reader meets it; at the end, whatever happened, it asked for nothing and complained of nothing."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, Path(path)
        driver.get_log("browser"), driver.get_log("performance")
        driver.get(self.path.as_uri())
        self.settle()

    def settle(self):
        """Two frames: the chart is drawn again when it learns its size."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def mark(self, index):
        return self.one(f".mark[data-index='{index}']")

    def click(self, element):
        from selenium.webdriver import ActionChains

        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        ActionChains(self.driver).move_to_element(element).click().perform()

    def choose(self, selector, value):
        from selenium.webdriver.support.ui import Select

        Select(self.one(selector)).select_by_value(value)

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def column(self, place):
        return [row.find_elements("css selector", "td")[place].text for row in self.all("#table tbody tr")]

    def requests(self):
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}


@pytest.fixture
def page(browser, run):
    found = Page(browser, run / "report.html")
    yield found
    assert not [url for url in found.requests() if not url.startswith(("file:", "data:"))]
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None


def test_every_student_is_a_point_and_the_chosen_one_is_picked(page):
    assert len(page.all(".mark")) == 11
    assert page.one("#detail h2").text == "student-6"
    assert "chosen" in page.one("#detail p").text
    assert [text.text for text in page.all("#chart text.budget-text")] == ["budget 30%"]
    assert page.one("#chart text.teacher-text").text.startswith("teacher 0.4800, at 500")
    assert page.one(".summary td").text == "teacher"


def test_a_click_on_a_point_shows_its_figures_and_its_command(page, run):
    page.click(page.mark(2))
    assert page.one("#detail h2").text == "student-2"
    assert "(10.0\u202f%)" in page.one("#detail dl").text
    words = page.one("#command").text.replace("\\\n", " ").split()
    student, out = run / "candidates" / "2.json", run / "students" / "student-2"
    assert " ".join(words) == f"kd3d distill --teacher 'big model' --data world --student {student} --out {out}"
    page.click(page.one("#copy"))
    assert page.one("#copy").text == "Copied"


def test_a_student_without_a_kept_specification_has_no_command(page):
    page.click(page.mark(10))
    assert page.one("#detail h2").text == HOSTILE
    assert "was not kept" in page.one("#detail").text
    assert page.all("#command") == []
    assert "<i>x</i>" in page.one("#detail").text


def test_hovering_names_the_point(page):
    from selenium.webdriver import ActionChains

    ActionChains(page.driver).move_to_element(page.mark(4)).perform()
    assert page.one("#tip").text.splitlines()[:2] == ["student-4", "trained, 100 steps"]
    assert "mAP 0.4100" in page.one("#tip").text


@pytest.mark.parametrize(
    ("x", "y"), [("macs", "score"), ("params", "score"), ("latency_ms", "prior"), ("macs", "prior")]
)
def test_the_front_is_that_of_the_axes_in_view(page, run, x, y):
    page.choose("#x-axis", x)
    page.choose("#y-axis", y)
    corners = page.one("path.front").get_attribute("d").count("V") + 1 if page.all("path.front") else 1
    assert corners == len(front(read_search(run).candidates, x, y))
    limits = {"macs": ["budget 30%"], "params": ["budget 80K"], "latency_ms": []}
    assert [text.text for text in page.all("#chart text.budget-text")] == limits[x]


def test_another_axis_moves_the_points(page):
    before = page.mark(0).rect["x"]
    page.choose("#x-axis", "params")  # the cheapest in MACs has the most parameters
    assert page.mark(0).rect["x"] > before + 100
    assert page.all("#chart text.strong")[0].text == "parameters"


def test_logarithmic_and_teacher_change_the_view(page):
    before = page.mark(6).rect["x"]
    page.one("#with-teacher").click()
    assert len(page.all("path.teacher")) == 1
    assert page.mark(6).rect["x"] < before
    narrow = page.mark(6).rect["x"] - page.mark(0).rect["x"]
    page.one("#log-scale").click()
    assert page.mark(6).rect["x"] - page.mark(0).rect["x"] > narrow


def test_the_filter_hides_a_state_in_plot_and_table(page):
    page.one("#states input[value=pruned]").click()
    assert page.all(".mark.pruned") == []
    assert len(page.all("#table tbody tr")) == 10
    assert page.one("#caption").text.startswith("10 of 11 students")
    for name in ("trained", "failed", "untrained"):
        page.one(f"#states input[value={name}]").click()
    assert page.all("#table tbody tr") == []
    assert "No student has these values" in page.one("#chart").text


def test_the_table_sorts_by_any_column_with_the_empty_last(page):
    heads = [cell.text for cell in page.all("#table th")]
    place = heads.index("mAP")
    page.click(page.all("#table th button")[place])
    assert page.column(place)[:2] == ["0.5000", "0.4500"]
    assert page.column(place)[-3:] == ["\u2013"] * 3
    page.click(page.all("#table th button")[place])
    assert page.column(place)[:2] == ["0.2800", "0.3000"]
    assert page.column(place)[-3:] == ["\u2013"] * 3
    assert page.all("#table th")[place].get_attribute("aria-sort") == "ascending"
    page.click(page.all("#table th button")[0])
    assert page.column(0)[1:4] == ["student-0", "student-1", "student-2"]


def test_a_name_in_the_table_picks_the_student(page):
    page.click(page.all("#table td button")[3])
    assert page.one("#detail h2").text == "student-3"
    assert page.one("tr.picked td").text == "student-3"


def test_the_keyboard_reaches_every_point(page):
    from selenium.webdriver.common.keys import Keys

    page.driver.execute_script("document.querySelector('.mark[tabindex=\"0\"]').focus()")
    page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.one("#detail h2").text == "student-1"
    assert page.one("#tip").text.startswith("student-1")
    page.press(Keys.END)
    assert page.driver.switch_to.active_element.get_attribute("aria-label").startswith(HOSTILE[:20])
    page.press(Keys.ESCAPE)
    assert not page.one("#tip").is_displayed()


def test_a_narrow_screen_needs_no_sideways_scrolling(page):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.driver.refresh()
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 390
        page.click(page.mark(5))
        assert page.one("#detail h2").text == "student-5"
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
