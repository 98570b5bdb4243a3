"""The harness with every backend, and its page in a real browser."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lowres_seg import Bundle, IntegrityError, Volume
from lowres_seg.bench import Plan, Suite, bench, compare
from lowres_seg.bench.backends import Subject, backend
from lowres_seg.bench.html.pictures import LABEL_RGB, MASK_RGB, three_planes
from lowres_seg.bench.html.timelines import timeline
from lowres_seg.bench.spec import Spec
from lowres_seg.cohort import Cases
from lowres_seg.export import export, phantom
from lowres_seg.quantize import quantize

from .conftest import Command, Tiny, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def bundle(tiny_network: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "tiny-fp32"
    return export(tiny_network.recipe, path, weights=tiny_network.weights, keep_onnx=True).path


@pytest.fixture(scope="session")
def suite(bundle: Path, tiny_network: Tiny) -> Path:
    """Every backend, kind of measurement and axis in one file, with two labelled cases.

    All on two cores, and the networks on one core: the whole product of the axes would take twice as long.
    """
    folder = bundle.parent
    int8 = folder / "tiny-int8"
    for number in range(3):
        head = phantom.head((40, 44, 36), 5.0, seed=number)
        head.save(folder / f"head-{number}.nii.gz")
        brain = Volume((head.data > head.data.mean()).astype(np.uint8), head.grid)
        brain.save(folder / f"label-{number}.nii.gz")
    channel = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["channels"][0]
    (folder / "calibrate.csv").write_text(f"{channel}\nhead-2.nii.gz\n", encoding="utf-8")
    rows = [f"case-{n},head-{n}.nii.gz,label-{n}.nii.gz" for n in range(2)]
    (folder / "cases.csv").write_text("\n".join([f"id,{channel},label", *rows]) + "\n", encoding="utf-8")
    quantize(bundle, int8, Cases.read(folder / "calibrate.csv", [channel]), None)
    (folder / "plan.toml").write_text("turn_s = 0\nwarm_up = 1\n", encoding="utf-8")  # single runs
    target = folder / "suite.json"
    common = (
        "bench", bundle, int8, "--plan", folder / "plan.toml", "--calibrate", folder / "calibrate.csv", "--passes", 1, "--rounds", 3,
        "--backend", "openvino,openvino-plain,onnxruntime,onnxruntime-int8,torch",
        "--recipe", tiny_network.recipe, "--weights", tiny_network.weights,
    )  # fmt: skip
    on_two = (
        "--cases", folder / "cases.csv", "--cores", 2, "--isa", "native,avx2", "--what", "network,end-to-end,throughput",
    )  # fmt: skip
    on_one = ("--cores", 1, "--isa", "native", "--what", "network", "-o", folder / "one.json")
    for words in ((*on_two, "-o", target), on_one):
        done = run(*common, *words)
        assert done.returncode == 0, done.stderr
        assert re.findall("quantizing .*", done.stderr) == ["quantizing tiny-fp32 for onnxruntime-int8"]
    found, other = Suite.read(target), Suite.read(folder / "one.json")
    both = {"benchmarks": (*found.benchmarks, *other.benchmarks), "peaks": (*found.peaks, *other.peaks)}
    found.model_copy(update=both).write(target, force=True)
    return target


def test_every_backend_is_measured_or_says_why_not(suite: Path) -> None:
    found = Suite.read(suite)
    assert len(found.benchmarks) == 3 * 2 * 2 * 5 + 2 * 5
    assert not found.partial
    served = {(b.bundle, b.backend, b.isa) for b in found.benchmarks if b.status == "measured"}
    assert served == {
        ("tiny-fp32", "openvino", "native"),
        ("tiny-fp32", "openvino", "avx2"),
        ("tiny-int8", "openvino", "native"),
        ("tiny-int8", "openvino", "avx2"),
        ("tiny-fp32", "openvino-plain", "native"),
        ("tiny-fp32", "openvino-plain", "avx2"),
        ("tiny-fp32", "onnxruntime", "native"),
        ("tiny-fp32", "onnxruntime-int8", "native"),
        ("tiny-fp32", "torch", "native"),
        ("tiny-fp32", "torch", "avx2"),
    }
    assert all(b.reason for b in found.benchmarks if b.status == "unserved")
    whole = [b for b in found.benchmarks if b.workload == "end-to-end" and b.status == "measured"]
    assert all(b.stages_s["load"] > 0 and b.stages_s["save"] > 0 for b in whole)


def test_every_backend_segments_alike(suite: Path) -> None:
    rows = {(b.bundle, b.backend): b.accuracy for b in Suite.read(suite).benchmarks if b.accuracy and b.isa == "native"}
    fp32 = rows["tiny-fp32", "openvino"]
    assert [row.case for row in fp32] == ["case-0", "case-1"]
    for other in ("openvino-plain", "onnxruntime", "torch"):
        for mine, theirs in zip(fp32, rows["tiny-fp32", other], strict=True):
            assert mine.dice == pytest.approx(theirs.dice, abs=1e-3)


def test_onnx_runtimes_int8_is_shown_as_int8(suite: Path, page_file: Path) -> None:
    """In its own column of accuracy, in grey, with what it was calibrated on."""
    found = Suite.read(suite)
    assert found.calibrated_on == ("head-2.nii.gz",)
    ones = [b for b in found.benchmarks if b.backend == "onnxruntime-int8" and b.status == "measured"]
    assert {(b.workload, b.cores) for b in ones} == {
        ("network", 1), ("network", 2), ("end-to-end", 2), ("throughput", 2),
    }  # fmt: skip
    assert {(b.precision, b.shown_precision, b.inference_precision) for b in ones} == {("int8", "int8", "f32")}
    assert ones[0].title == "tiny-fp32, onnxruntime-int8 int8, 2 cores, network"
    fp32 = next(b for b in found.benchmarks if b.backend == "onnxruntime" and b.accuracy)
    for mine, theirs in zip(ones[0].accuracy, fp32.accuracy, strict=True):
        assert mine.dice != theirs.dice
        assert mine.dice == pytest.approx(theirs.dice, abs=0.05)
    text = page_file.read_text(encoding="utf-8")
    assert "took their ranges from head-2.nii.gz." in text
    bars = re.findall(
        r'"row">tiny-fp32, onnxruntime-int8, int8[^<]*</th><td class="bar" aria-hidden="true"><span class="mark (\w+)"',
        text,
    )
    assert set(bars) == {"other"}


def test_no_graph_in_int8_gets_into_a_bundle(suite: Path, bundle: Path) -> None:
    assert Suite.read(suite).benchmarks[0].digest == Bundle.open(bundle).digest
    assert [path.name for path in bundle.rglob("*.onnx")] == ["net.onnx"]


def test_onnx_runtimes_int8_says_why_it_does_not_serve(suite: Path, bundle: Path) -> None:
    gaps = [line for line in Suite.read(suite).gaps() if ", onnxruntime-int8" in line]
    assert len(gaps) == 3, gaps  # an INT8 bundle, and both bundles under a limit
    assert any("tiny-int8, onnxruntime-int8" in line and "beside the fp32 bundle" in line for line in gaps)
    without = backend("onnxruntime-int8").reason_against(Subject(Bundle.open(bundle)), "native", ())
    assert without.endswith("name a table of them with --calibrate")
    assert "\n" not in without


def test_torch_compile_runs(bundle: Path, tiny_network: Tiny) -> None:
    content: dict[str, Any] = {
        "bundles": [{"path": bundle, "recipe": tiny_network.recipe, "weights": tiny_network.weights}],
        "backends": ["torch", "torch-compile"],
        "what": ["network"],
        "cores": [1],
        "passes": 1,
        "rounds": 3,
    }
    found = bench(Plan.build("test", content))
    assert [b.status for b in found.benchmarks] == ["measured", "measured"]
    assert found.benchmarks[0].peak_rss_bytes > 150e6  # type: ignore[operator]


def test_other_weights_are_refused(bundle: Path, tiny_network: Tiny, tmp_path: Path, command: Command) -> None:
    shutil.copy(tiny_network.torchscript, tmp_path / "tiny.pt")
    done = command(
        "bench", bundle, "--backend", "torch", "--recipe", tiny_network.recipe, "--weights", tmp_path,
        "-o", tmp_path / "s.json",
    )  # fmt: skip
    assert done.returncode == 1
    assert "holds other weights than" in done.stderr
    assert not (tmp_path / "s.json").exists()


def test_weights_are_found_below_a_folder_by_their_digest(
    bundle: Path, tiny_network: Tiny, tmp_path: Path, command: Command
) -> None:
    (tmp_path / "others").mkdir()
    shutil.copy(tiny_network.torchscript, tmp_path / "others" / tiny_network.checkpoint.name)
    (tmp_path / "weights" / "v1").mkdir(parents=True)
    shutil.copy(tiny_network.checkpoint, tmp_path / "weights" / "v1")
    done = command(
        "bench", bundle, "--backend", "torch", "--what", "network", "--cores", 1, "--passes", 1, "--rounds", 1,
        "--recipe", tiny_network.recipe, "--weights", tmp_path, "-o", tmp_path / "s.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [b.status for b in Suite.read(tmp_path / "s.json").benchmarks] == ["measured"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mindgrab", "mindgrab/recipe.toml: none of the bundles was exported from this recipe"),
        ("mindgrap", "no recipe has this name"),
        ("mindgrap", "did you mean mindgrab?"),
    ],
)
def test_a_recipe_that_comes_along_is_named(
    bundle: Path, tmp_path: Path, command: Command, name: str, says: str
) -> None:
    done = command("bench", bundle, "--recipe", name, "-o", tmp_path / "s.json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert says in done.stderr


def test_a_suite_compares_with_itself(suite: Path, command: Command) -> None:
    found = Suite.read(suite)
    assert compare(found, found).met
    done = command("compare", suite, suite, "--format", "github")
    assert done.returncode == 0
    assert "| benchmark | what |" in done.stdout


def test_pictures_show_both_outlines() -> None:
    head = phantom.head((40, 44, 36), 5.0)
    label = (head.data > head.data.mean()).astype(np.uint8)
    drawn = three_planes(head, np.roll(label, 3, axis=0), label)
    assert set(drawn) == {"axial", "coronal", "sagittal"}
    for png in drawn.values():
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).reshape(-1, 3).astype(int)
        for colour in (LABEL_RGB, MASK_RGB):
            assert (np.abs(pixels - colour).max(axis=1) < 24).sum() > 50


def test_a_picture_has_the_patients_right_on_the_left() -> None:
    data = np.zeros((30, 30, 30), np.float32)
    data[5:25, 5:25, 5:25] = 1
    label = np.zeros((30, 30, 30), np.uint8)
    label[20:25, 20:25, 20:25] = 1  # right, anterior, head, on a grid whose first axis goes to the right
    drawn = three_planes(Volume.from_array(data, np.diag([1.0, 1, 1, 1])), label, label)
    for plane in ("axial", "coronal"):
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn[plane]))).convert("RGB")).astype(int)
        rows, columns = np.nonzero(np.abs(picture - MASK_RGB).max(axis=2) < 24)
        assert columns.mean() < picture.shape[1] / 2, plane
        assert rows.mean() < picture.shape[0] / 2, plane


@pytest.fixture(scope="session")
def page_file(suite: Path) -> Path:
    target = suite.with_suffix(".html")
    done = run("report", suite, "-o", target)
    assert done.returncode == 0, done.stderr
    return target


def visit(page_file: Path, width: int) -> tuple[Any, ...]:
    """Open the page; what it asked for, what went wrong, and how large everything that is drawn came out."""
    assert CHROMIUM is not None, "no Chromium: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page: Page = browser.new_page(viewport={"width": width, "height": 900})
        requests: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        figures = page.evaluate(
            """() => [...document.querySelectorAll('figure')].map(f => ({
                id: f.dataset.figure,
                marks: [...f.querySelectorAll('.mark, svg .drawn, img.drawn')].map(m => {
                    const box = m.getBoundingClientRect();
                    const seen = m.tagName !== 'IMG' || (m.complete && m.naturalWidth > 0);
                    return seen ? Math.min(box.width, box.height) > 0 || m.tagName === 'polyline' && box.width > 0 : false;
                })}))"""
        )
        facts = page.evaluate(
            """() => ({wide: document.documentElement.scrollWidth - innerWidth,
                lang: document.documentElement.lang,
                headings: [...document.querySelectorAll('h1, h2')].map(h => h.tagName + h.textContent),
                levels: [...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1])),
                unnamed: [...document.querySelectorAll('img:not([alt]), svg:not([aria-label])')].length,
                bare: [...document.querySelectorAll('svg')].filter(s => !s.closest('figure').querySelector('table')).length,
                words: Math.min(...[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)),
                rows: [...document.querySelectorAll('.chart tr')].every(r => r.querySelector('th[scope=row]')),
                scrollers: [...document.querySelectorAll('.scroll')].every(s => s.tabIndex === 0 && s.ariaLabel)})"""
        )
        page.emulate_media(media="print")
        printed = page.evaluate("() => getComputedStyle(document.body).maxWidth")
        browser.close()
    return requests, errors, figures, facts, printed


@pytest.mark.parametrize("width", [1100, 400, 320])
def test_the_page_draws_every_figure_and_asks_for_nothing(page_file: Path, width: int) -> None:
    requests, errors, figures, facts, printed = visit(page_file, width)
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert errors == []
    ids = [figure["id"] for figure in figures]
    assert {
        "pareto", "quantize-0-layers", "speed-network", "speed-end-to-end", "speed-throughput", "isa-network", "memory-network", "cold-network",
        "roofline", "cores-network", "stages", "timeline", "dice", "hd95", "pictures-tiny-fp32", "pictures-tiny-int8",
    } <= set(ids)  # fmt: skip
    for figure in figures:
        assert figure["marks"], figure["id"]
        assert all(figure["marks"]), figure["id"]
    assert facts["wide"] <= 0, "the page scrolls sideways"
    assert facts["lang"] == "en"
    assert facts["headings"][0].startswith("H1tiny-fp32")
    assert facts["unnamed"] == 0
    assert facts["bare"] == 0, "a plot has no table of its values"
    assert facts["words"] >= 9, "text of a plot is too small to read"
    levels = facts["levels"]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert facts["rows"]
    assert facts["scrollers"]
    assert printed == "none"


#: Ratio of contrast (WCAG 2) of every text with what lies behind it, and of every mark with the page; the lowest of each.
CONTRAST = """() => {
    const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const rgba = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const behind = e => { for (; e; e = e.parentElement) {
        const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 0) return c; } };
    const texts = [...document.querySelectorAll('body *')].filter(
        e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
    const colour = e => rgba(getComputedStyle(e)[e.closest('svg') ? 'fill' : 'color']);
    const marks = [...document.querySelectorAll('.mark, svg .dot')].map(e => {
        const style = getComputedStyle(e), page = behind(document.body);
        const fill = rgba(e.closest('svg') ? style.fill : style.backgroundColor);
        return Math.max(ratio(fill, page), style.borderTopWidth === '2px' ? ratio(rgba(style.borderTopColor), page) : 0); });
    return {text: Math.min(...texts.map(e => ratio(colour(e), behind(e)))), marks: Math.min(...marks)};
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_marks_stand_out(page_file: Path, scheme: Any) -> None:
    assert CHROMIUM is not None, "no Chromium: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page: Page = browser.new_page(color_scheme=scheme)
        page.goto(page_file.as_uri())
        found = page.evaluate(CONTRAST)
        browser.close()
    assert found["text"] >= 4.5
    assert found["marks"] >= 3


def test_the_page_names_what_a_plot_shows(page_file: Path, suite: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    found = [b for b in Suite.read(suite).benchmarks if b.status == "measured" and b.isa == "native" and b.cores == 2]
    judged = [b for b in found if b.workload == "end-to-end" and b.accuracy]
    fastest = min(judged, key=lambda b: b.latency_s.p50)  # type: ignore[union-attr]
    assert f"The fastest is {fastest.bundle}, {fastest.backend}, {fastest.shown_precision}: " in text
    for row in found[0].accuracy:
        assert f"{row.case}, {row.region}</th>" in text


def test_a_suite_keeps_what_quantize_tried(suite: Path, bundle: Path) -> None:
    told = json.loads((bundle.parent / "tiny-int8" / "reports" / "quantize.json").read_text(encoding="utf-8"))
    quantized = Suite.read(suite).quantized
    assert set(quantized) == {"tiny-int8"}
    assert [layer.layer for layer in quantized["tiny-int8"].layers] == [layer["layer"] for layer in told["layers"]]


def test_the_worst_case_is_pictured(suite: Path) -> None:
    found = Suite.read(suite)
    for b in found.benchmarks:
        if b.backend == "openvino" and b.isa == "native" and b.accuracy:
            worst = min(b.accuracy, key=lambda row: row.dice)
            assert worst.case in {picture.case for picture in found.pictures if picture.bundle == b.bundle}


def test_a_request_would_be_seen(page_file: Path, tmp_path: Path) -> None:
    """The check above must be able to fail: a page with a picture from elsewhere, and without its policy."""
    text = page_file.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv=.*?>", "", text).replace("<main>", '<main><img src="http://127.0.0.1:9/x.png">')
    other = tmp_path / "leaky.html"
    other.write_text(text, encoding="utf-8")
    requests, _, _, _, _ = visit(other, 800)
    assert "http://127.0.0.1:9/x.png" in requests


def test_the_page_holds_memory_over_time(page_file: Path, suite: Path) -> None:
    """Of every process that starts, up to its peak; the summary names the highest and the lowest."""
    drawn = timeline([b for b in Suite.read(suite).benchmarks if b.status == "measured"])
    assert drawn is not None
    assert drawn.workload == "end-to-end"
    assert {line.name.split(", ")[1] for line in drawn.lines} == {
        "openvino", "openvino-plain", "onnxruntime", "onnxruntime-int8", "torch",
    }  # fmt: skip
    assert drawn.summary in page_file.read_text(encoding="utf-8")
    assert "The highest peak has tiny-fp32, torch, f32: " in drawn.summary
    for line in drawn.lines:
        assert min(y for _, y in line.points) == line.peak[1]
        assert [x for x, _ in line.points] == sorted(x for x, _ in line.points)


def test_the_page_holds_the_suites_figures(page_file: Path, suite: Path) -> None:
    text = page_file.read_text(encoding="utf-8")
    for b in Suite.read(suite).benchmarks:
        if b.status == "measured":
            assert b.latency_s is not None
            assert f"{1000 * b.latency_s.p99:.1f} ms" in text
        else:
            assert f"{b.status}, {b.reason}" in text


@pytest.mark.parametrize("name", ["openvino-plain", "onnxruntime"])
def test_a_graph_that_is_swapped_after_the_check_does_not_run(bundle: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    opened = Bundle.open(copy)
    given = backend(name).networks(Subject(opened))
    spec = Spec(task="measure", bundle=str(copy), backend=name, networks=given)
    (engine,) = backend(name).load(spec).values()
    x = np.zeros(opened.network("net").input_shape, np.float32)
    assert engine.run(x).shape == opened.network("net").output_shape
    (copy / "networks" / "net.onnx").write_bytes(b"another graph")
    with pytest.raises(IntegrityError, match=r"net\.onnx: has changed"):
        backend(name).load(spec)
