"""A guess which series is which channel, by what their descriptions say of contrast."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lowres_seg.dicom.choosing import listing
from lowres_seg.dicom.series import Series
from lowres_seg.errors import InputError, in_one_line

#: Contrast of a channel, by its name without anything but letters and digits.
_CHANNELS = {
    **dict.fromkeys(("t1", "t1n", "t1w", "t1pre", "t1native"), "T1"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1post", "t1wgd", "t1wce", "t1contrast", "t1wpost"), "T1 with contrast"),
    **dict.fromkeys(("t2", "t2w"), "T2"),
    **dict.fromkeys(("flair", "t2f", "t2flair", "fl"), "FLAIR"),
}
_FLAIR = re.compile(r"flair|dark ?fluid|tirm")
_T1 = re.compile(r"mp ?rage|spgr|bravo|\btfe\b|vibe|\bt?fl3d")
_T2 = re.compile(r"t2(?!\d|\*| ?star)")
_AGENT = re.compile(
    r"\+ ?(c|gd|k)\b|\bc\+|post|gad|gd\b|\bgd|\bce\b|\bkm\b|contrast|t1 ?c(e\b|\b)|\bc\b(?=.*t1)|t1.*\bc$"
)
_WITHOUT = re.compile(r"\bpre\b|without|\bw ?o\b|non ?contrast|unenhanced|\bnativ")
#: Series that are none of these contrasts, whatever else their names say.
_OTHER = re.compile(
    r"localizer|scout|survey|\bloc\b|adc|dwi|diff|trace|dti|swi|swan|t2\*|t2 ?star|perf|\basl\b|bold|fmri|\bmap\b|"
    r"angio|\btof\b|\bsub"
)


def guessed(series: Sequence[Series], channels: Sequence[str]) -> dict[str, Series]:
    """Series of each channel. Each is the only one whose description has the channel's contrast.

    Raises
    ------
    InputError
        If a channel has none or several, or series of several patients or studies are there; the message lists them.
    """
    path = series[0].path
    usable = [one for one in series if not one.problem and not one.aside]
    give = f"give {' '.join(f'{channel}=SERIES' for channel in channels)}"
    if not usable:
        raise InputError(f"{path}: no series makes a volume: {listing(series)}")
    if len({(one.first.study_uid, one.first.patient) for one in usable}) > 1:
        raise InputError(f"{path}: holds several studies: {listing(usable, series)}; name the folder of one, or {give}")
    found: dict[str, Series] = {}
    for channel in channels:
        wanted = _CHANNELS.get(re.sub(r"[^a-z0-9]", "", channel.lower()))
        meant = [one for one in usable if wanted is not None and contrast(one) == wanted]
        if len(meant) != 1:
            many = "several series look" if meant else "no series looks"
            raise InputError(f"{path}: {many} like channel {channel}: {listing(meant or usable, series)}; {give}")
        found[channel] = meant[0]
    return found


def told(series: Series, channel: str) -> str:
    """The doubt about a guess."""
    return in_one_line(f"channel {channel} was guessed from {listing([series])}; name it to be sure")


def contrast(series: Series) -> str:
    """What a series says of contrast: ``T1``, ``T1 with contrast``, ``T2``, ``FLAIR``; or empty.

    Protocol and sequence are asked where the description says nothing.
    """
    agent = series.first.contrast
    return named_contrast(series.description, agent=agent) or named_contrast(series.first.words, agent=agent)


def named_contrast(description: str, *, agent: bool = False) -> str:
    """Contrast that a description names: ``T1``, ``T1 with contrast``, ``T2``, ``FLAIR``; or empty.

    Parameters
    ----------
    description : str
    agent : bool
        Whether the header names a contrast agent.

    Examples
    --------
    >>> named_contrast("t2_space_dark-fluid_sag"), named_contrast("AX T1 FSE +C"), named_contrast("ep2d_diff_ADC")
    ('FLAIR', 'T1 with contrast', '')
    """
    words = re.sub(r"[\s_/\-.,]+", " ", description.lower())
    if _OTHER.search(words):
        return ""
    by_name = re.search(r"t1(?!\d)", words)
    if _FLAIR.search(words) and not by_name:
        return "FLAIR"
    if _T2.search(words) and not by_name:
        return "T2"
    if not by_name and not _T1.search(words):
        return ""
    if _WITHOUT.search(words):
        return "T1"
    return "T1 with contrast" if agent or _AGENT.search(words) else "T1"
