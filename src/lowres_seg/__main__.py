"""``python -m lowres_seg``."""

from lowres_seg.cli import main

main()
