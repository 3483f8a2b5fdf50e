"""The page of a whole run in headless Chromium, as wide as a phone and as a desktop."""

import shutil

import pytest

from kd3d.report.pareto import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with chromedriver is installed (apt-get install chromium-driver)"
)


@pytest.fixture(scope="module")
def page(tmp_path_factory, kd3d_run):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    for flag in flags:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver, write_report(kd3d_run).html.as_uri()
    driver.quit()


@pytest.fixture(scope="module")
def kd3d_run(tmp_path_factory):
    import json

    from kd3d.datasets.open import open_dataset
    from kd3d.datasets.world import write_world

    folder = tmp_path_factory.mktemp("page") / "run"
    write_world(folder / "world", scenes=2, seed=3, samples_per_scene=2, cameras=False, workers=1)
    row = {
        "translation": [0.0, 0.0, 1.0],
        "size": [2.0, 4.0, 1.5],
        "rotation": [1, 0, 0, 0],
        "detection_name": "car",
        "detection_score": 0.9,
    }
    tokens = open_dataset(folder / "world", split="val").tokens
    for name, rows in {"teacher": [row], "student": []}.items():
        (folder / "evaluation" / name).mkdir(parents=True)
        (folder / "evaluation" / name / "results.json").write_text(
            json.dumps({"meta": {}, "results": dict.fromkeys(tokens, rows)})
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": s, "loss": 1 / s}) + "\n" for s in (1, 2, 3)))
    (folder / "environment.json").write_text(json.dumps({"machine": {"cpu": "long" * 60}, "command": ["x" * 300]}))
    return folder


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen_and_nothing_is_complained_of(page, width):
    driver, address = page
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(address)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    panels = driver.find_elements("css selector", ".bev svg")
    assert len(panels) == 4
    assert all(panel.rect["width"] > 200 for panel in panels)
    side_by_side = panels[0].rect["y"] == panels[1].rect["y"]
    assert side_by_side is (width > 500), "teacher and student stand beside each other where there is room"
    assert driver.get_log("browser") == []


def test_the_points_are_seen_in_both_panels_in_light_and_in_dark(page):
    driver, address = page
    for scheme in ("light", "dark"):
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        driver.get(address)
        inverted = driver.execute_script(
            "return [...document.querySelectorAll('.bev image, .bev use')].map((e) => getComputedStyle(e).filter)"
        )
        assert inverted[1] == "none", "a copy of an inverted image is inverted already"
        assert inverted[0] == ("invert(1)" if scheme == "dark" else "none")
