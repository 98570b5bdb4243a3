"""Outputs that appear whole or not at all, and never in place of an input.

An output is written in a hidden folder beside its target, put on the disk, and one rename gives it its name. A failure,
an interruption or a kill leaves the target as it was. What a killed process left is removed by the next run into that
place.
"""

from lowres_seg.atomic.outputs import check_target, check_targets, directory, file, files, unwritable
from lowres_seg.atomic.staging import hold, workplace

__all__ = ["check_target", "check_targets", "directory", "file", "files", "hold", "unwritable", "workplace"]
