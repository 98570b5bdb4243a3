"""Bounds on what a bundle may say and hold.

A bundle comes from somewhere else. Within these bounds it is read, and refused, in about a second and little memory.
``docs/bundle.md`` has them as a table, and a test compares the two.
"""

from __future__ import annotations

#: Bytes of manifest.json.
MANIFEST_BYTES = 1 << 20
#: Lists and objects within each other, in a manifest.
DEPTH = 32
#: Items of one list, or keys of one object.
ITEMS = 4096
#: Characters of a string.
TEXT = 10_000
#: Largest whole number, as any reader of JSON holds it.
WHOLE = 2**53
#: Channels of a scan.
CHANNELS = 32
#: Stages of a pipeline.
STAGES = 32
#: Networks of all stages together; one that two stages run counts twice.
NETWORKS = 128
#: Intensity rules, clean-up rules or mask channels of a stage.
RULES = 64
#: Channels of a network's scores.
SCORES = 1024
#: Voxels along one axis of a grid or a window.
SIDE = 4096
#: Voxels of the input of a network.
VOXELS = 1 << 28
#: Smallest spacing of a conformed grid, in mm.
SPACING_MM = 0.01
#: Overlap of windows, as a share of a window.
OVERLAP = 0.95
#: Neighbouring slices on each side of one, as channels.
SLICES = 64
#: Runs of each window of a network whose dropout is kept on, and masks of one network.
SAMPLES, MASKS = 1000, 256
#: Windows over one scan.
WINDOWS = 100_000
#: Bytes of one file, of a network's .xml, and of all files of a bundle.
FILE_BYTES, XML_BYTES, BUNDLE_BYTES = 4 << 30, 64 << 20, 16 << 30
#: Bytes of reference.npz, and of its arrays.
REFERENCE_BYTES, REFERENCE_ARRAY_BYTES = 64 << 20, 256 << 20
#: Voxels of the scan of the reference case.
REFERENCE_VOXELS = 1 << 24
