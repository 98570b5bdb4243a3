"""Bundles of MONAI's model zoo: MONAI's own evaluator against the bundle that `export` makes of the same folder.

    .venv-dev/bin/python benchmarks/monai_zoo.py [ZOO] [--bundle NAME ...] [--shrink 1] [--threads 2] [--work FOLDER]

ZOO holds folders with the published ``configs``. Weights are not needed: each network is built from its own
configuration, with seeded weights. Both sides read the same real scan, and their label maps are compared on the scan's
own grid. Where voxels differ, those are counted whose two best scores (or whose score and its threshold) differ by less
than 1e-3 of the range of MONAI's scores on the scan's grid. A scan for a network that takes very many windows is cut to
its middle; the table says so. `--shrink N` divides the width of networks whose configuration names one.

Needs lowres-seg[all,oracle] and real scans (LOWRES_SEG_REALDATA, or ../shared/realdata beside the checkout).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from lowres_seg import Segmenter
from lowres_seg.export import export

warnings.simplefilter("ignore")
REALDATA = Path(os.environ.get("LOWRES_SEG_REALDATA", Path(__file__).resolve().parents[2] / "shared" / "realdata"))
HEAD = REALDATA / "heads" / "TCGA-FG-6692_t1.nii.gz"
TUMOR = REALDATA / "tumor" / "BraTS-GLI-00001-000"
CONTRASTS = ("t1c", "t1n", "t2w", "t2f")
#: Length in mm of the middle of the scan that is kept, for networks that see half a millimetre or are slow.
MIDDLE_MM = {"prostate_mri_anatomy": 80, "swin_unetr_btcv_segmentation": 150, "multi_organ_segmentation": 130}
MARGIN = 1e-3


def main() -> None:
    """Compare each bundle, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("zoo", type=Path, nargs="?", default=REALDATA / "monai_zoo")
    parser.add_argument("--bundle", action="append", default=[])
    parser.add_argument("--shrink", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lowres-seg-monai-zoo")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    names = given.bundle or sorted(path.name for path in given.zoo.iterdir() if (path / "configs").is_dir())
    print("| bundle | scan | MONAI s | export s | ours s | equal | lowest Dice (labels) | of the rest, in the margin |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        print(row(given.zoo / name, given.work / name, given.shrink, given.threads), flush=True)


def row(published: Path, work: Path, shrink: int, threads: int) -> str:
    """One row of the table."""
    shutil.rmtree(work, ignore_errors=True)
    folder = work / "bundle"
    shutil.copytree(published / "configs", folder / "configs", copy_function=shutil.copyfile)
    (folder / "models").mkdir()
    config = configuration(folder, shrink)
    scan = scans(config, work / "scan", MIDDLE_MM.get(published.name))
    build(folder, config, scan)
    start = time.perf_counter()
    expected, scores = theirs(folder, config, scan, work / "monai")
    monai_s = time.perf_counter() - start
    start = time.perf_counter()
    exported = export(folder, work / "lowres-seg", threads=threads)
    export_s = time.perf_counter() - start
    start = time.perf_counter()
    segmenter = Segmenter.load(exported, threads=threads)
    names = segmenter.pipeline.channels
    found = segmenter.predict(dict(zip(names, scan, strict=True)) if len(names) > 1 else scan[0]).labels.data
    ours_s = time.perf_counter() - start
    equal = expected == found
    dice = {
        int(value): 2 * np.count_nonzero((expected == value) & (found == value))
        / (np.count_nonzero(expected == value) + np.count_nonzero(found == value))
        for value in np.unique(expected)
        if value and np.count_nonzero(expected == value) > 100
    }  # fmt: skip
    lowest = f"{min(dice.values()):.6f} ({len(dice)})" if dice else "no label"
    left = "none"
    if not equal.all():
        if any("threshold" in one for one in config["postprocessing"]["transforms"]):
            apart = np.abs(scores - 0.5).min(axis=0)
        else:
            apart = np.diff(np.sort(scores, axis=0)[-2:], axis=0)[0]
        close = apart < MARGIN * np.ptp(scores)
        left = f"{np.count_nonzero(~equal & close)} of {np.count_nonzero(~equal)}"
    shape = "×".join(map(str, expected.shape))
    middle = MIDDLE_MM.get(published.name)
    return (
        f"| {published.name} | {shape}{f', middle {middle} mm' if middle else ''} | {monai_s:.0f} | {export_s:.0f} | "
        f"{ours_s:.0f} | {equal.mean():.6f} | {lowest} | {left} |"
    )


def configuration(folder: Path, shrink: int) -> Any:
    """MONAI's own parser of the inference file, told what every run must be told."""
    from monai.bundle import ConfigParser

    (file,) = sorted((folder / "configs").glob("inference.*"))
    content = ConfigParser.load_config_file(file)
    network = content["network_def"]
    for key in ("init_filters", "feature_size", "channels"):
        if key in network and shrink > 1:
            value = network[key]
            network[key] = [max(4, n // shrink) for n in value] if isinstance(value, list) else value // shrink
    network.pop("img_size", None)  # MONAI 1.6 dropped it
    for transform in content["preprocessing"]["transforms"]:
        transform.pop("reader", None)  # ITK is not needed for NIfTI
    file.unlink()
    (folder / "configs" / "inference.json").write_text(json.dumps(content))
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser.read_meta(folder / "configs" / "metadata.json")
    parser["bundle_root"] = str(folder)
    parser["device"] = "$torch.device('cpu')"
    for key in ("amp", "evaluator#amp"):
        if key in parser:
            parser[key] = False
    return parser


def build(folder: Path, config: Any, scan: list[Path]) -> None:
    """Write seeded weights of the network, and the result of an architecture search where it needs one.

    The last bias is moved so that every score is the highest, or above its threshold, somewhere in the middle.
    """
    if "arch_ckpt_path" in config:
        search(folder / "models" / Path(str(config["arch_ckpt_path"]).rpartition("/")[2].strip("'")).name, config)
        config["arch_ckpt"] = (
            str(config["arch_ckpt"])
            .replace("'cuda'", "'cpu'")
            .replace("torch.load(", "torch.load(weights_only=False, f=")
        )
        config["dints_space"]["device"] = "$torch.device('cpu')"
    torch.manual_seed(0)
    network = config.get_parsed_content("network_def", instantiate=True)
    with torch.no_grad():
        for module in network.modules():  # an untrained network decides nothing: make its scores differ more
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    image = config.get_parsed_content("preprocessing", instantiate=True)({"image": as_monai_reads(scan)})["image"]
    sizes = [min(n, 96) // 32 * 32 for n in image.shape[1:]]
    starts = [(n - m) // 2 for n, m in zip(image.shape[1:], sizes, strict=True)]
    i, j, k = (slice(a, a + m) for a, m in zip(starts, sizes, strict=True))
    with torch.no_grad():
        scores = network.eval()(image[None, :, i, j, k].as_tensor().float())[0].flatten(1)
        bias = [value for name, value in network.named_parameters() if name.endswith("bias")][-1]
        if bias.shape == (len(scores),):
            bias -= torch.stack([row.quantile(0.6) for row in scores])
    torch.save(network.state_dict(), folder / "models" / "model.pt")


def as_monai_reads(scan: list[Path]) -> list[str] | str:
    """One file, or a file for each channel."""
    return [str(path) for path in scan] if len(scan) > 1 else str(scan[0])


def search(path: Path, config: Any) -> None:
    """Write an architecture as a search would."""
    space = config["dints_space"]
    blocks, depths = space["num_blocks"], space["num_depths"]
    random = np.random.default_rng(0)
    paths = 3 * depths - 2
    torch.save(
        {
            "arch_code_a": np.ones((blocks, paths), int),
            "arch_code_c": random.integers(0, 2, (blocks, paths)),
            "node_a": np.ones((blocks + 1, depths), int),
        },
        path,
    )


def scans(config: Any, folder: Path, middle_mm: float | None) -> list[Path]:
    """Files of the scan: four contrasts, or one head; cut to its middle."""
    count = config["network_def"].get("in_channels", 1)
    sources = [TUMOR / f"{one}.nii.gz" for one in CONTRASTS] if count == 4 else [HEAD]
    folder.mkdir(parents=True)
    written = []
    for source in sources:
        image = nib.load(source)
        if middle_mm is not None:
            spacing = image.header.get_zooms()[:3]
            sizes = [min(n, round(middle_mm / mm)) for n, mm in zip(image.shape, spacing, strict=True)]
            image = image.slicer[
                tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(image.shape, sizes, strict=True))
            ]
        nib.save(image, folder / source.name)
        written.append(folder / source.name)
    return written


def theirs(folder: Path, config: Any, scan: list[Path], out: Path) -> tuple[np.ndarray, np.ndarray]:
    """Label map of MONAI's evaluator on the scan's grid, and the scores that it was decided by, on the same grid."""
    from monai.transforms import Compose

    config["output_dir"] = str(out)
    config["dataset#data"] = [{"image": as_monai_reads(scan)}]
    config["dataloader#num_workers"] = 0
    for key in ("output_dtype", "output_ext"):
        if key in config:
            config[key] = {"output_dtype": "$numpy.float32", "output_ext": ".nii.gz"}[key]
    if "checkpoint" in config:
        config["checkpoint"] = str(folder / "models" / "model.pt")
    evaluator = config.get_parsed_content("evaluator", instantiate=True)
    if "checkpointloader" in config:
        config.get_parsed_content("checkpointloader", instantiate=True)(evaluator)
    evaluator.run()
    (file,) = out.rglob("*.nii.gz")
    labels = np.rint(np.squeeze(nib.load(file).get_fdata())).astype(np.uint8)

    chain = config.get_parsed_content("postprocessing", instantiate=True)
    kept = [one for one in chain.transforms if type(one).__name__ in ("Activationsd", "Invertd")]
    for one in kept:
        if hasattr(one, "nearest_interp"):
            one.nearest_interp = (False,)
    item = evaluator.data_loader.dataset[0]
    with torch.no_grad():
        item["pred"] = evaluator.inferer(item["image"][None], evaluator.network)[0]
    return labels, np.asarray(Compose(kept)(item)["pred"])


if __name__ == "__main__":
    main()
