"""DICOM, which a scanner writes and a PACS holds: a series in, a segmentation object out.

Everything here needs the extra `dicom`, and is imported only where a DICOM input or output is asked for.
"""
