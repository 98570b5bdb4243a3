"""A suite as one page that opens anywhere.

`page` renders it. `pictures` draws slices of a scan with the outlines of two masks.
"""
