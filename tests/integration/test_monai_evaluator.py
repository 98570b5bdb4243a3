"""A bundle of the model zoo, run by MONAI's own evaluator, against what is exported of the same folder."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from lowres_seg import Segmenter
from lowres_seg.export import export
from lowres_seg.metrics.agreement import dice

from .conftest import beside

pytest.importorskip("monai")
pytest.importorskip("ignite")


def evaluated(folder: Path, image: Path, out: Path) -> np.ndarray:
    """Label map that MONAI's evaluator saves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        parser.read_config(folder / "configs" / "inference.json")
        parser.read_meta(folder / "configs" / "metadata.json")
        parser["bundle_root"], parser["output_dir"] = str(folder), str(out)
        parser["device"] = "$torch.device('cpu')"
        parser["dataset#data"] = [{"image": str(image)}]
        parser["dataloader#num_workers"] = 0
        parser["evaluator#amp"] = False
        evaluator = parser.get_parsed_content("evaluator", instantiate=True)
        parser.get_parsed_content("checkpointloader", instantiate=True)(evaluator)
        evaluator.run()
    (file,) = out.rglob("*.nii.gz")
    return np.squeeze(nibabel.load(file).get_fdata()).astype(np.uint8)


def test_the_published_spleen_bundle_is_monais(realdata: Path, tmp_path: Path) -> None:
    """Its configuration as published but for its width, with seeded weights, on a real head of thick oblique slices."""
    folder = tmp_path / "spleen"
    published = realdata / "monai_zoo" / "spleen_ct_segmentation" / "configs"
    if not published.is_dir():
        pytest.skip(f"{published} is not there")
    shutil.copytree(published, folder / "configs", copy_function=shutil.copyfile)
    path = folder / "configs" / "inference.json"
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    content["network_def"]["channels"] = [4, 4, 8, 8, 16]
    path.write_text(json.dumps(content), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.networks.nets import UNet
    image = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.load(realdata / "heads" / "TCGA-FG-6692_t1.nii.gz").slicer[40:210, 30:190, 4:20], image)
    torch.manual_seed(0)
    network = UNet(**{key: value for key, value in content["network_def"].items() if key != "_target_"}).eval()
    (folder / "models").mkdir()
    beside("monai_bundles").spread(network, folder, [image])
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    expected = evaluated(folder, image, tmp_path / "monai")
    found = Segmenter.load(export(folder, tmp_path / "out")).predict(image).labels.data
    assert 0.01 < expected.mean() < 0.99
    assert np.mean(found == expected) >= 0.9999
    assert dice(found == 1, expected == 1) >= 0.999
