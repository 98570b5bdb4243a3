"""The page of `view` in a real browser: what it draws, and what it asks for."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from lowres_seg import Volume
from lowres_seg.view.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRAWING = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
SHAPE = (40, 48, 36)
#: Axes of the file run to the left, to the back and down, turned by some degrees: no order of RAS.
AFFINE = np.array([[-3.9, 0.5, 0, 75], [-0.5, -3.9, 0.4, 95], [0, -0.4, -3.9, 70], [0, 0, 0, 1.0]])
#: A browser that draws without a GPU is slow on a busy machine.
PATIENCE_MS = 240_000
ORANGE, BLUE = (230, 159, 0), (86, 180, 233)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "no Chromium: apt-get install chromium"
    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=DRAWING)
        yield found
        found.close()


@pytest.fixture(scope="module")
def volumes() -> tuple[Volume, Volume]:
    """A grey ball whose label 1 is at the patient's right, in front and up, and label 2 at the left, behind and down."""
    voxels = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(voxels @ AFFINE[:3, :3].T + AFFINE[:3, 3], -1, 0)
    ball = x**2 + (y / 1.2) ** 2 + z**2 < 60**2
    noise = np.random.default_rng(0).normal(0, 15, SHAPE)
    scan = np.where(ball, 300, 20) + noise
    mask = np.zeros(SHAPE, np.uint8)
    mask[(x - 28) ** 2 + (y - 22) ** 2 + (z - 20) ** 2 < 18**2] = 1
    mask[(x + 28) ** 2 + (y + 22) ** 2 + (z + 20) ** 2 < 14**2] = 2
    assert np.unique(mask).tolist() == [0, 1, 2]
    names = "head.nii.gz", "mask.nii.gz"
    grey, labels = (
        Volume.from_array(d, AFFINE, name=n) for d, n in zip((scan.astype(np.float32), mask), names, strict=True)
    )
    return grey, labels


@pytest.fixture(scope="module")
def page_file(volumes: tuple[Volume, Volume], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "view.html"
    write_page(*volumes, path, names={1: "right <b>one</b>", 2: "left one"}, version="1")
    return path


class Visit:
    """A page that is open, what it asked for and what went wrong."""

    def __init__(self, browser: Browser, file: Path) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page: Page = browser.new_page(viewport={"width": 1000, "height": 600})
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.errors.append(message.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(file.as_uri())
        self.page.wait_for_selector("body[data-state]", timeout=PATIENCE_MS)

    def drawn(self) -> np.ndarray:
        """The canvas (rows, columns, 3), as the browser shows it after its next frame."""
        self.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return np.asarray(Image.open(io.BytesIO(self.page.locator("#canvas").screenshot())).convert("RGB")).astype(int)

    def choose(self, planes: str) -> np.ndarray:
        self.page.select_option("#planes", label=planes)
        return self.drawn()

    def go_to(self, label: str) -> None:
        self.page.get_by_role("button", name=label).click()


@pytest.fixture(scope="module")
def visit(browser: Browser, page_file: Path) -> Iterator[Visit]:
    found = Visit(browser, page_file)
    yield found
    found.page.close()


def is_blank(pixels: np.ndarray) -> bool:
    """Whether a canvas shows no head: few pixels, or few shades, are neither black nor the colour of a letter."""
    grey = pixels[(np.ptp(pixels, axis=2) < 12) & (pixels.max(axis=2) > 30)]
    return len(grey) < 0.05 * pixels[..., 0].size or len(np.unique(grey[:, 0])) < 20


def like(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows and columns of the pixels whose tint is that of a label; of all that are filled half they are a tenth."""
    tint = np.array(colour) - np.mean(colour)
    own = pixels - pixels.mean(axis=2, keepdims=True)
    length = np.linalg.norm(own, axis=2)
    return np.argwhere((length > 30) & (own @ tint > 0.95 * length * np.linalg.norm(tint)))


def test_three_planes_show_the_head_and_its_labels(visit: Visit) -> None:
    pixels = visit.choose("three planes")
    assert not is_blank(pixels)
    assert len(like(pixels, ORANGE)) > 500
    assert visit.errors == []


def test_the_page_asks_for_nothing(visit: Visit, page_file: Path) -> None:
    assert [url for url in visit.requests if not url.startswith(("data:", "blob:"))] == [page_file.as_uri()]


def test_the_page_may_ask_for_nothing(visit: Visit) -> None:
    """Its policy keeps even a script that has come in from reaching another host."""
    refused = visit.page.evaluate("() => fetch('http://127.0.0.1:9/x').then(() => 'reached', error => error.message)")
    assert refused == "Failed to fetch"
    assert any("violates the document's Content Security Policy" in text for text in visit.errors), visit.errors
    visit.errors.clear()


@pytest.mark.parametrize(
    ("plane", "right_is", "up_is"),
    [("axial", "left", "front"), ("coronal", "left", "up"), ("sagittal", "front is right", "up")],
)
def test_sides_are_where_their_letters_say(visit: Visit, plane: str, right_is: str, up_is: str) -> None:
    """Label 1 lies to the patient's right, in front and up."""
    visit.go_to("right <b>one</b>")
    rows, columns, _ = (pixels := visit.choose(plane)).shape
    assert not is_blank(pixels)
    row, column = like(pixels, ORANGE).mean(axis=0)
    assert row < rows / 2, up_is
    assert (column < columns / 2) == (right_is == "left")
    visit.go_to("left one")
    row, column = like(visit.drawn(), BLUE).mean(axis=0)
    assert row > rows / 2
    assert (column > columns / 2) == (right_is == "left")


def test_the_letters_of_both_sides_are_drawn(visit: Visit) -> None:
    """An R at the left border of an axial slice and an L at the right one, told apart by their upper right quarter."""
    visit.go_to("right <b>one</b>")
    bright = visit.choose("axial").max(axis=2) > 120
    middle = slice(bright.shape[0] // 2 - 25, bright.shape[0] // 2 + 25)
    letters = []
    for side in (bright[middle, :25], bright[middle, -25:]):
        rows, columns = np.nonzero(side)
        letter = side[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert 6 < letter.shape[0] < 25
        letters.append(letter[: letter.shape[0] // 2, letter.shape[1] // 2 :].mean())
    assert letters[0] > 0.2
    assert letters[1] < 0.1


def test_labels_can_be_hidden_and_filled_less(visit: Visit) -> None:
    visit.go_to("right <b>one</b>")
    before = len(like(visit.choose("axial"), ORANGE))
    box = visit.page.get_by_label("show right <b>one</b>")
    box.uncheck()
    assert len(like(visit.drawn(), ORANGE)) < before / 20
    box.check()
    assert len(like(visit.drawn(), ORANGE)) == pytest.approx(before, rel=0.02)
    visit.page.locator("#opacity").fill("0")
    assert len(like(visit.drawn(), ORANGE)) < before / 20
    visit.page.locator("#opacity").fill("0.4")


def test_a_click_tells_place_and_label(visit: Visit) -> None:
    visit.go_to("right <b>one</b>")
    found = re.fullmatch(
        r"R ([\d.]+), A ([\d.]+), S ([\d.]+) mm: [\d.]+, right <b>one</b>", visit.page.locator("#where").inner_text()
    )
    assert found is not None
    assert np.abs(np.array(found.groups(), float) - [28, 22, 20]).max() < 4  # a voxel
    visit.choose("axial")
    visit.page.locator("#canvas").click(position={"x": 300, "y": 300})
    assert "right" not in visit.page.locator("#where").inner_text()


def test_a_browser_without_webgl_says_so(browser: Browser, page_file: Path) -> None:
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-3d-apis"])
    page = other.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(page_file.as_uri())
    page.wait_for_selector("body[data-state=failed]")
    told = page.locator("#told").inner_text()
    other.close()
    assert told.startswith("This browser has no WebGL 2")


def test_a_blank_canvas_is_seen_and_the_page_says_why(browser: Browser, page_file: Path, tmp_path: Path) -> None:
    """The checks above must be able to fail: a page whose script ends before it draws, and without its policy."""
    text = page_file.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    broken = tmp_path / "blank.html"
    broken.write_text(
        text.replace("  await nv.load", "  throw new Error('no luck'); await nv.load", 1), encoding="utf-8"
    )
    visit = Visit(browser, broken)
    assert is_blank(visit.drawn())
    assert visit.page.locator("#told").inner_text() == "The scan cannot be shown: no luck"
    visit.page.close()


def test_a_changed_script_does_not_run(browser: Browser, page_file: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    text = page_file.read_text(encoding="utf-8").replace(
        '"use strict";', '"use strict"; document.body.dataset.state = 1;'
    )
    changed.write_text(text, encoding="utf-8")
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.goto(changed.as_uri())
    assert page.evaluate("document.body.dataset.state") is None
    page.close()
