"""The importer of MONAI bundles. No code of the folder runs, unless the user trusts it.

A bundle folder holds ``configs/metadata.json``, ``configs/inference.json`` or ``.yaml``, and the weights in ``models``.
The configuration is read as data: references and simple expressions are resolved, and no code is run. Each transform
becomes a rule of the manifest that computes the same, or does not change the result, or is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lowres_seg.bundle.grids import Conform, Restore
from lowres_seg.bundle.part import first_problem
from lowres_seg.bundle.pipeline import EvaluatedRegion, Label
from lowres_seg.bundle.stage import Argmax, Normalise, PaintedRegion, Regions, Stage
from lowres_seg.bundle.windows import Windows
from lowres_seg.errors import ExportError
from lowres_seg.export.importers import monai_files, monai_names
from lowres_seg.export.importers.files import named
from lowres_seg.export.importers.monai_arguments import EXAMPLE, Arguments, problem, validated
from lowres_seg.export.importers.monai_config import JOINED, PRED, Config, Role
from lowres_seg.export.importers.monai_ensembles import transformed
from lowres_seg.export.importers.monai_grids import GRIDS, Joined
from lowres_seg.export.importers.monai_intensities import INTENSITIES
from lowres_seg.export.importers.monai_result import Result
from lowres_seg.export.importers.monai_scan import HARMLESS, IMAGE, Scan, Transform, starting
from lowres_seg.export.importers.monai_windows import SimpleInferer, SliceInferer, SlidingWindowInferer
from lowres_seg.export.recipe import About, Imported

#: Inferers that see a scan in windows, and all that are known.
WINDOWS = {
    "SlidingWindowInferer": SlidingWindowInferer,
    "SlidingWindowInfererAdapt": SlidingWindowInferer,
    "SliceInferer": SliceInferer,
}
INFERERS: dict[str, type[Arguments]] = {**WINDOWS, "SimpleInferer": SimpleInferer}
#: BraTS's regions in the order in which they are painted: label, and name of the part that keeps it.
_BRATS = {"wt": (2, "edema"), "tc": (1, "non-enhancing-core"), "et": (4, "enhancing-tumor")}
_BRATS_CALLED = {"whole-tumor": "wt", "tumor-core": "tc", "enhancing-tumor": "et"}
#: Enhancing tumor is 4 in label maps of BraTS up to 2021, 3 in later ones.
_BRATS_YEARS = ([2, 1, 4], [2, 1, 3])
#: Texts of the metadata.
_TOLD = ("description", "task", "license", "copyright", "authors", "intended_use")


TITLE = "a MONAI bundle (configs/metadata.json, configs/inference.json, models)"


@dataclass(frozen=True)
class Options:
    """How to read a MONAI bundle.

    Attributes
    ----------
    config_files : sequence of str
        Configuration files, relative to the bundle or to its configs; later ones add to the first. Without any it is
        ``inference.json``, ``.yaml`` or ``.yml``.
    channels : sequence of str
        Keys of the images that a transform of the bundle's own joins into one, in its order. Whoever names them vouches
        that it does nothing else.
    trust_code : bool
        Whether to run the code of the bundle that builds its network.
    """

    config_files: Sequence[str] = ()
    channels: Sequence[str] = ()
    trust_code: bool = False


def matches(path: Path) -> bool:
    """Tell whether `path` looks like a MONAI bundle."""
    return (path / "configs").is_dir()


def home(path: Path) -> Path:
    """The bundle's folder."""
    return path


def files(path: Path, options: Options) -> list[Path]:
    """Files that say what a recipe says."""
    return [path / "configs" / "metadata.json", *monai_files.chosen(path, options.config_files)]


def options_again(networks: Sequence[str]) -> Options:  # noqa: ARG001 - a bundle does not say them
    """Options with which a bundle with these networks was read."""
    return Options()


def network(name: str, arguments: Mapping[str, Any]) -> Any:
    """Build a network of MONAI; see `monai_classes.network`."""
    from lowres_seg.export.importers import monai_classes

    return monai_classes.network(name, arguments)


def recipe(path: Path, options: Options) -> Imported:
    """Read a MONAI bundle.

    MONAI writes the regions whole tumor, tumor core and enhancing tumor as channels. Here they are painted in that
    order as 2, 1 and 4; enhancing tumor also where neither of the others is. A ``Lambdad`` of such bundles makes the
    same label map.

    Parameters
    ----------
    path : pathlib.Path
    options : Options

    Raises
    ------
    ExportError
        If a file is missing or damaged, or a manifest cannot express exactly what it says.
    """
    from lowres_seg.export.importers.monai_networks import Networks

    folder = path
    metadata, written = _metadata(folder)
    config = Config(monai_files.chosen(folder, options.config_files), folder, written)
    networks = Networks.of(config)
    joined = tuple(named(key) or "image" for key in options.channels)
    channels = joined or monai_names.names(metadata, "inputs", (IMAGE,), networks.channels("inputs"))
    scores = monai_names.names(metadata, "outputs", (PRED, *networks.items), networks.channels("outputs"))
    role = config.role("preprocessing")
    if role is None:
        raise ExportError(f"{config.path}: has no preprocessing; expected a Compose of transforms of a dataset")
    scan = _scan(config, role, channels, options.channels)
    result = _result(config, scan, networks.items, len(scores), role.entry)
    decode, labels, regions = _decoded(result, scores, f"{config.path}: postprocessing")
    windows = _windows(config, metadata, scan)
    shape = windows.roi_size if windows is not None else scan.conform["shape"]
    names, sources, code = networks.sources((1, len(channels), *(shape or ())), trust=options.trust_code)
    version = monai_names.text(metadata, "version") or "unknown"
    title = monai_names.text(metadata, "name") or folder.resolve().name
    told = {key: monai_names.text(metadata, key) for key in _TOLD}
    try:
        return Imported(
            bundle=About(
                name=named(title) or "monai-bundle",
                version=version,
                description=told["description"] or told["task"] or title,
                license=told["license"] or told["copyright"] or "not stated",
                source=f"MONAI bundle {title} {version}, by {told['authors'] or 'unknown authors'}",
                intended_use=told["intended_use"] or "not stated",
            ),
            channels=channels,
            labels=labels,
            regions=regions,
            networks=sources,
            stages=(
                Stage(
                    name="segment",
                    networks=names,
                    ensemble=result.ensemble,
                    region=scan.region,
                    conform=Conform.model_validate(scan.conform),
                    normalise=_normalised(scan),
                    windows=windows,
                    decode=decode,
                    restore=Restore.model_validate(result.restore),
                    cleanup_before_restore=tuple(result.before),
                    cleanup=tuple(result.after),
                ),
            ),
            notes=tuple(dict.fromkeys((*metadata.notes, *config.notes, *result.notes))),
            trusted_code=code,
        )
    except ValidationError as error:
        raise ExportError(f"{folder}: {first_problem(error)}") from error


def _metadata(folder: Path) -> tuple[Config, dict[str, Any]]:
    """Metadata of a bundle, and how they are written; empty without a file, which MONAI does not need."""
    file = folder / "configs" / "metadata.json"
    if file.is_file():
        return Config([file], folder, {}), monai_files.read(file)
    metadata = Config([], folder, {}, file)
    metadata.notes.append(f"{file}: is missing, so the network's arguments say how many channels and classes there are")
    return metadata, {}


def _scan(config: Config, role: Role, channels: Sequence[str], joined: Sequence[str]) -> Scan:
    """What the transforms of preprocessing do to the scan."""
    chain = list(config.transforms(role.key, joined))
    try:
        scan = starting(channels, [(name, given) for _, name, given in chain])
    except ValueError as error:
        raise ExportError(f"{config.where(role.key)}: {problem(error)}") from error
    known: dict[str, type[Transform]] = {**HARMLESS, **GRIDS, **INTENSITIES, JOINED: Joined}
    scan.later = [name for _, name, _ in chain]
    if scan.will("Spacingd", "Resized"):
        scan.phase = "before-conform"
    for where, name, given in chain:
        del scan.later[0]
        if name not in known:
            raise ExportError(
                f"{where} has no exact counterpart in a bundle; do it to the scans before if it is "
                "the first step, else the network must be trained or validated without it"
            )
        transform = validated(known[name], given, where)
        try:
            if transform.items(scan):
                transform.apply(scan)
        except ValueError as error:
            raise ExportError(f"{where}: {problem(error)}") from error
    return scan


def _result(config: Config, scan: Scan, items: Sequence[str], scores: int, preprocessing: Any) -> Result:
    """What the transforms of postprocessing do to the scores of the networks."""
    result = Result(scan, scores, preprocessing)
    role = config.role("postprocessing")
    place = f"{config.path}: postprocessing" if role is None else config.where(role.key)
    transformed(() if role is None else config.transforms(role.key), items, result, place)
    return result


def _decoded(
    result: Result, scores: Sequence[str], where: str
) -> tuple[Argmax | Regions, tuple[Label, ...], tuple[EvaluatedRegion, ...]]:
    """How scores become labels; the labels; the evaluated regions."""
    if result.argmax:
        if not 2 <= len(scores) <= 256:
            raise ExportError(f"{where}: argmax over {len(scores)} channels, expected 2 to 256")
        labels = tuple(Label(value=c, name=name) for c, name in enumerate(scores) if c)
        return Argmax(activation=result.activation, labels=tuple(range(len(scores)))), labels, ()
    called = [_BRATS_CALLED.get(name.replace("_", "-"), name) for name in scores]
    brats = [called.index(region) for region in _BRATS] if sorted(called) == sorted(_BRATS) else []
    choice = result.choice
    if choice is None:
        if not brats and len(scores) > 1:
            raise ExportError(
                f"{where}: thresholds {len(scores)} channels, which may overlap, and a bundle writes one label map; "
                "name them whole tumor, tumor core and enhancing tumor in metadata.json, or add after AsDiscreted a "
                f"Lambdad that says which label wins: {EXAMPLE}"
            )
        choice = [(c, label) for c, (label, _) in zip(brats, _BRATS.values(), strict=True)] if brats else [(0, 1)]
    names = dict(enumerate(scores))
    regions: tuple[EvaluatedRegion, ...] = ()
    if brats == [channel for channel, _ in choice]:
        names = {c: left for c, (_, left) in zip(brats, _BRATS.values(), strict=True)}
        values = [label for _, label in choice]
        enhancing = {3, 4} if values in _BRATS_YEARS else set[int]()
        regions = tuple(
            EvaluatedRegion(name=region, labels=tuple(sorted({*values[place:], *enhancing})))
            for place, region in enumerate(_BRATS)
        )
    assert result.threshold is not None  # noqa: S101 - else there is an argmax
    painted = tuple(PaintedRegion(channel=c, threshold=result.threshold, label=label) for c, label in choice)
    labels = tuple(Label(value=label, name=names[c]) for c, label in sorted(choice, key=lambda pair: pair[1]))
    return Regions(activation=result.activation, regions=painted), labels, regions


def _windows(config: Config, metadata: Config, scan: Scan) -> Windows | None:
    """Windows; None if the network takes the whole scan, in one shape."""
    role = config.role("inferer")
    if role is None:
        raise ExportError(f"{config.path}: has no inferer; expected a SlidingWindowInferer")
    name, given = config.component(role.entry, role.key)
    where = f"{config.where(role.key)} {name}"
    if name in WINDOWS:
        try:
            return validated(WINDOWS[name], given, where).windows(scan)
        except ValueError as error:
            raise ExportError(f"{where}: {problem(error)}") from error
    if name != "SimpleInferer":
        raise ExportError(f"{where}: has no exact counterpart in a bundle; expected SlidingWindowInferer")
    validated(SimpleInferer, given, where)
    if "shape" in scan.conform:
        return None
    _, inputs = monai_names.data_format(metadata, "inputs", (IMAGE,))
    shape = inputs.get("spatial_shape")
    if not (isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)):
        raise ExportError(
            f"{where}: takes scans of any shape, a bundle one shape or windows; use SlidingWindowInferer, or write "
            f"the one shape of the scans into {metadata.path}, inputs.{IMAGE}.spatial_shape, where {shape} was found"
        )
    grown = [key for key in ("at_most", "at_least", "multiple_of") if key in scan.conform]
    if grown or inputs.get("is_patch_data"):
        why = "the scan is padded or cropped by its own size" if grown else "metadata.json says is_patch_data"
        raise ExportError(
            f"{where}: takes the whole scan, whatever its shape, and {why}; a bundle takes one shape or windows: use "
            "SlidingWindowInferer, or a ResizeWithPadOrCropd or Resized to one shape"
        )
    scan.conform |= {"shape": shape} | ({} if "spacing_mm" in scan.conform else {"spacing_mm": [None] * 3})
    scan.conform.setdefault("pad", "zero")
    return None


def _normalised(scan: Scan) -> Normalise:
    """Intensity rules of a stage, each with its step where they differ."""
    when: Literal["before-conform", "after-conform"] = "after-conform"
    if scan.rules and scan.rules[0].when == "before-conform":
        when = "before-conform"
    rules = [rule.model_copy(update={"when": None if rule.when == when else rule.when}) for rule in scan.rules]
    return Normalise(when=when, rules=tuple(rules))
