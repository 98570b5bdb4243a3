"""Names that one part of a recipe uses and another must have, checked whatever else is wrong with the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from lowres_seg.export.faults import near

#: The greatest value of a label.
_GREATEST = 255
#: Sentences of a pipeline's own checks on the same names.
CHECKED = (
    "names network",
    "names channel",
    "refers to stage",
    "writes labels",
    "networks that no stage runs",
    "has inputs for network",
    "has a view for network",
)


def faults(content: Mapping[str, Any]) -> list[str]:
    """Describe each name of a recipe that refers to nothing, one line each.

    Parameters
    ----------
    content : mapping
        A recipe as TOML gives it. Parts of another shape than a recipe has are passed over.
    """
    stages = _tables(content.get("stages"))
    names = [str(stage.get("name", place)) for place, stage in enumerate(stages)]
    found: list[str] = []
    for place, stage in enumerate(stages):
        where = f"stages.{names[place]}"
        found += _of_networks(where, stage, content)
        found += _of_channels(where, stage, content)
        found += _of_stages(where, stage, names[:place], names)
        found += _of_labels(where, stage, content)
    return [*found, *_unused(stages, content), *_empty_regions(content)]


def _of_networks(where: str, stage: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    networks = content.get("networks")
    run = _texts(stage.get("networks"))
    if isinstance(networks, dict) and networks:
        for name in run:
            if name not in networks:
                known = ", ".join(networks)
                yield f"{where}.networks: names network {name}, the networks are {known}{near(name, networks)}"
    for key, what in (("inputs", "inputs"), ("views", "a view")):
        for name in _table(stage.get(key)):
            if name not in run:
                yield f"{where}.{key}: has {what} for network {name}, which the stage does not run{near(name, run)}"


def _of_channels(where: str, stage: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    channels = _texts(content.get("channels"))
    crop = _table(_table(stage.get("conform")).get("crop"))
    parts = [*_rules(stage), ("conform.crop", crop), ("region", _table(stage.get("region")))]
    named = [(f"{place}.channels", part.get("channels")) for place, part in parts]
    named += [(f"inputs.{network}", names) for network, names in _table(stage.get("inputs")).items()]
    for place, names in named:
        for name in _texts(names):
            if channels and name not in channels:
                yield (
                    f"{where}.{place}: names channel {name}, the channels are {', '.join(channels)}"
                    f"{near(name, channels)}"
                )


def _of_stages(where: str, stage: Mapping[str, Any], earlier: list[str], every: list[str]) -> Iterator[str]:
    named = [("region.stage", _table(stage.get("region")).get("stage")), ("onto", stage.get("onto"))]
    named += [("mean_with", name) for name in _texts(stage.get("mean_with"))]
    named += [
        (f"mask_channels.{i}.stage", one.get("stage")) for i, one in enumerate(_tables(stage.get("mask_channels")))
    ]
    named += [
        (f"{place}.{key}", rule.get(key)) for place, rule in _rules(stage) for key in ("statistics_of", "inside_also")
    ]
    for place, name in named:
        if isinstance(name, str) and name not in earlier:
            known = f"the stages before it are {', '.join(earlier)}" if earlier else "no stage comes before it"
            yield f"{where}.{place}: refers to stage {name}, {known}{'' if name in every else near(name, earlier)}"


def _of_labels(where: str, stage: Mapping[str, Any], content: Mapping[str, Any]) -> Iterator[str]:
    values = _label_values(content)
    if not values or _table(stage.get("restore")).get("what") == "nothing":
        return
    decode = _table(stage.get("decode"))
    written = [("decode.regions", one.get("label")) for one in _tables(decode.get("regions"))]
    written += [("decode.labels", value) for value in _numbers(decode.get("labels"))]
    for key in ("cleanup", "cleanup_before_restore"):
        written += [(key, rule.get("becomes")) for rule in _tables(stage.get(key))]
    known = ", ".join(map(str, values))
    for place, value in dict.fromkeys((place, value) for place, value in written if isinstance(value, int)):
        if value not in (0, *values):
            yield f"{where}.{place}: writes label {value}, the labels are {known}; add it to labels"


def _unused(stages: Iterable[Mapping[str, Any]], content: Mapping[str, Any]) -> Iterator[str]:
    """Networks that no stage runs. One that a stage names wrongly is none of them."""
    run = {name for stage in stages for name in _texts(stage.get("networks"))}
    networks = content["networks"] if isinstance(content.get("networks"), dict) else {}
    unused = sorted(set(networks) - run)
    if stages and unused and run <= set(networks):
        yield f"networks that no stage runs: {', '.join(unused)}"


def _empty_regions(content: Mapping[str, Any]) -> Iterator[str]:
    """Evaluated regions without any label of the bundle. Some of their values may be those of other label maps."""
    values = _label_values(content)
    for place, region in enumerate(_tables(content.get("regions"))):
        labels = _numbers(region.get("labels"))
        if values and labels and not set(labels) & set(values):
            known = ", ".join(map(str, values))
            yield f"regions.{region.get('name', place)}.labels: are {labels}, the labels are {known}; name one of them"


def _label_values(content: Mapping[str, Any]) -> list[int]:
    """Values of the labels; none if one is no value of a label, or there twice, which is a fault of its own."""
    values = [one.get("value") for one in _tables(content.get("labels"))]
    found = [value for value in values if isinstance(value, int) and 1 <= value <= _GREATEST]
    return found if len(set(found)) == len(values) else []


def _rules(stage: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    rules = _tables(_table(stage.get("normalise")).get("rules"))
    return [(f"normalise.rules.{place}", rule) for place, rule in enumerate(rules)]


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _tables(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _numbers(value: object) -> list[int]:
    return [one for one in value if isinstance(one, int)] if isinstance(value, list) else []
