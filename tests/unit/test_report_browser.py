"""The page as a browser shows it: no complaint, sorting, slider, 3D viewer, narrow and dark."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nsr.report import figures
from nsr.report.write import write_report
from tests.unit.browser import chromium, opened
from tests.unit.report_fixture import make_run, make_textured, write_runs

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A report of two scenes, the second with a textured mesh."""
    root = tmp_path_factory.mktemp("page")
    for scene, chamfer in (("ball", 0.75), ("other", 0.25)):
        folder = make_run(root / "results", scene=scene, chamfer=chamfer)
    make_textured(folder)
    runs = write_runs(root / "runs.json", *(("demo", scene, "neus") for scene in ("ball", "other")))
    with pytest.MonkeyPatch.context() as patch:  # figures are not what these tests look at
        patch.setattr(figures, "draw", lambda paint, *, size, prefix, label: f'<svg id="{prefix}" viewBox="0 0 9 9"></svg>')
        write_report(root / "results", runs, root / "report")
    return root / "report" / "index.html"


@pytest.fixture(scope="module")
def complaints():
    return []


@pytest.fixture(scope="module")
def page(browser, address, complaints):
    with opened(browser, address, complaints, viewport={"width": 1300, "height": 900}) as made:
        yield made
    assert complaints == []


def pixels(locator) -> np.ndarray:
    """What is on the screen, (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


def start_viewer(page, index: int):
    viewer = page.locator(".viewer").nth(index)
    viewer.scroll_into_view_if_needed()
    viewer.locator("xpath=self::*[@data-state='ready']").wait_for(timeout=60_000)
    viewer.locator("canvas").wait_for(timeout=60_000)
    page.wait_for_timeout(300)
    return viewer


def test_table_sorts_by_every_kind_of_column(page, complaints):
    table = page.locator("table.summary").first

    def column(number: int) -> list[str]:
        return [row.locator("th, td").nth(number).inner_text().strip() for row in table.locator("tbody").all()]

    head = [cell.inner_text().split("\n")[0] for cell in table.locator("thead th").all()]
    chamfer = head.index("Chamfer")
    assert column(chamfer) == ["0.750", "1.250", "0.250", "1.250"]
    button = table.locator("thead th").nth(chamfer).locator("button")
    button.click()
    assert column(chamfer) == ["0.250", "0.750", "1.250", "1.250"]
    assert table.locator("thead th").nth(chamfer).get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert column(chamfer) == ["1.250", "1.250", "0.750", "0.250"]
    table.locator("thead th").nth(head.index("PSNR")).locator("button").click()
    assert table.locator("thead th").nth(head.index("PSNR")).get_attribute("aria-sort") == "descending"
    assert table.locator("thead th").nth(chamfer).get_attribute("aria-sort") is None
    table.locator("thead th").nth(0).locator("button").click()
    assert column(0) == ["demo/ball"] * 2 + ["demo/other"] * 2
    assert complaints == []


def test_best_numbers_stand_out(page):
    weights = page.locator("table.summary td.best").first.evaluate("element => getComputedStyle(element).fontWeight")
    assert int(weights) >= 600


def test_slider_shows_more_of_the_left_picture_by_mouse_and_keyboard(page, complaints):
    box = page.locator(".compare").first
    box.scroll_into_view_if_needed()
    stage, slider = box.locator(".stage"), box.locator("input[type=range]")
    left, right = 80, 90  # greys of the photograph 0000 or 0004 and of every render, before compression

    def left_share() -> float:
        line = pixels(stage)
        line = line[int(line.shape[0] * 0.8)].mean(axis=1)  # under the handle
        return float((np.abs(line - page_grey) < np.abs(line - right)).mean())

    page_grey = {"0000": 40, "0004": 120}[box.locator("select.view option").first.inner_text()]
    assert left_share() == pytest.approx(0.5, abs=0.03) and left != right
    where = stage.bounding_box()
    page.mouse.click(where["x"] + 0.8 * where["width"], where["y"] + 0.5 * where["height"])
    assert left_share() == pytest.approx(0.8, abs=0.04)
    slider.focus()
    page.keyboard.press("Home")
    assert left_share() < 0.03
    for _ in range(10):
        page.keyboard.press("PageUp")
    assert left_share() > 0.9
    assert complaints == []


def test_slider_changes_view_and_pictures(page, complaints):
    box = page.locator(".compare").first
    labels = box.locator("select.right option").all_inner_texts()
    assert labels[:3] == ["photo", "render", "normals"] and labels[3].startswith("depth")
    shown = box.locator("img.b").get_attribute("src")
    box.locator("select.right").select_option(label="normals")
    assert box.locator("img.b").get_attribute("src") != shown
    box.locator("select.view").select_option(index=1)
    assert [view.is_visible() for view in page.locator(".views").first.locator(".view").all()] == [False, True]
    page.locator(".views").first.locator(".view").nth(1).locator("figure button").nth(1).click()
    assert box.locator("select.right").evaluate("element => element.selectedOptions[0].text") == "render"
    assert complaints == []


def test_viewer_shows_the_surface_where_it_belongs(page, complaints):
    """A sphere fills the middle of the picture as a disc of the size that the camera's distance gives it."""
    viewer = start_viewer(page, 0)
    page.locator(".viewer").first.locator("label", has_text="Shape").click()
    page.wait_for_timeout(200)
    shot = pixels(viewer.locator(".screen"))
    height, width = shot.shape[:2]
    background = shot[:, 5]
    surface = np.abs(shot - background[:, None]).sum(axis=2) > 40
    rows, columns = np.nonzero(surface)
    assert rows.mean() == pytest.approx(height / 2, abs=6) and columns.mean() == pytest.approx(width / 2, abs=6)
    diameter = np.sqrt(4 / np.pi * surface.sum())
    assert diameter == pytest.approx(height / 1.02, rel=0.06)
    assert np.ptp(shot[surface].sum(axis=1)) > 60  # shaded, not flat
    assert complaints == []


def test_viewer_shows_texture_normals_and_errors(page, complaints):
    viewer = start_viewer(page, 1)
    assert viewer.get_attribute("data-look") == "texture"
    screen = viewer.locator(".screen")

    def middle() -> np.ndarray:
        page.wait_for_timeout(200)
        shot = pixels(screen)
        height, width = shot.shape[:2]
        return shot[height // 2 - 20 : height // 2 + 20, width // 2 - 20 : width // 2 + 20].mean(axis=(0, 1))

    textured = middle()
    assert np.abs(textured - [200, 60, 60]).max() < 12 or np.abs(textured - [60, 60, 200]).max() < 12  # unlit, as in the file
    viewer.locator("label", has_text="Normals").click()
    assert np.abs(middle() - [128, 128, 255]).max() < 14  # towards the camera
    viewer.locator("label", has_text="Error").click()
    assert viewer.locator(".legend").is_visible()
    coloured = middle()
    assert coloured[0] > coloured[2]  # yellow to red
    assert complaints == []


def test_only_one_canvas_and_a_still_where_it_was(page, complaints):
    start_viewer(page, 1)
    first = start_viewer(page, 0)
    first.locator(".screen").click()
    first.locator("canvas").wait_for()
    assert page.locator(".viewer canvas").count() == 1
    assert page.locator(".viewer .still").count() == 1
    assert complaints == []


def test_photograph_moves_the_viewer_to_its_camera(page, complaints):
    viewer = start_viewer(page, 0)
    viewer.locator("label", has_text="Shape").click()
    before = pixels(viewer.locator(".screen"))
    page.locator(".thumbs").first.locator("button").nth(2).click()
    page.wait_for_timeout(400)
    assert viewer.locator("select.from").evaluate("element => element.selectedOptions[0].text") == "0002"
    after = pixels(viewer.locator(".screen"))
    assert np.abs(after - before).mean() > 1
    viewer.locator("button.reset").click()
    page.wait_for_timeout(300)
    assert np.abs(pixels(viewer.locator(".screen")) - before).mean() < 0.5
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_screen_and_dark_mode_are_readable(browser, address, scheme):
    complaints: list[str] = []
    with opened(browser, address, complaints, viewport={"width": 380, "height": 800}, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        size = page.evaluate("Math.min(...[...document.querySelectorAll('td, th, p, figcaption')].map("
                             "e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
        assert size >= 12
        for selector in ("p", ".soft", "td.ok", "td.best", "figcaption", "summary", "a", ".badge", "td.none"):
            for ratio in contrasts(page, selector):
                assert ratio >= 4.5, f"{selector}: contrast {ratio:.1f}"
    assert complaints == []


def contrasts(page, selector: str) -> list[float]:
    """WCAG 2 contrast of each matching element's text with the first background under it that is not transparent."""
    return page.evaluate(
        """selector => {
          const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
          const light = (text) => {
            const [r, g, b] = numbers(text).map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (element) => {
            for (let e = element; e; e = e.parentElement) {
              const colour = getComputedStyle(e).backgroundColor;
              const alpha = numbers(colour)[3] ?? 1;
              if (alpha === 1) return colour;
            }
            return "rgb(255, 255, 255)";
          };
          return [...document.querySelectorAll(selector)].slice(0, 20).map((element) => {
            const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
            return (a + 0.05) / (b + 0.05);
          });
        }""",
        selector,
    )


def test_without_scripts_everything_but_the_viewer_is_there(browser, address):
    complaints: list[str] = []
    with opened(browser, address, complaints, java_script_enabled=False) as page:
        assert page.locator(".view:visible").count() == 4
        assert page.locator(".compare:visible").count() == 0
        assert "needs scripts and WebGL" in page.locator(".viewer .message").first.inner_text()
