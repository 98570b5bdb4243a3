"""The logger ``lowres_seg``. It is silent until an application gives it a handler."""

from __future__ import annotations

import logging

log = logging.getLogger("lowres_seg")
log.addHandler(logging.NullHandler())
