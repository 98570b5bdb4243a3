"""Voxels of DICOM frames. With `instances`, the home of pydicom."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import pixel_array

from lowres_seg.dicom.instances import Instance
from lowres_seg.errors import InputError, one_line

#: Bits of a stored value that one array of numpy holds.
_MOST_BITS = 32


class Pixels:
    """The stored values of an instance's frames, decoded frame by frame.

    Parameters
    ----------
    instance : Instance

    Attributes
    ----------
    dropped : int
        Number of values, of the frames so far, that had more bits than the header says.

    Raises
    ------
    InputError
        If it cannot be read, or does not say how its values are stored.
    """

    def __init__(self, instance: Instance) -> None:
        self._name = instance.stored.name
        self._dataset = instance.dataset()
        words = ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
        try:
            allocated, stored, high, signed = (int(self._dataset.get(word, "")) for word in words)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self._name}: lacks one of {', '.join(words)}; fetch it again") from error
        if not (1 <= stored <= allocated <= _MOST_BITS and stored - 1 <= high < allocated and signed in (0, 1)):
            raise InputError(
                f"{self._name}: has {stored} bits of {allocated}, the highest {high}, PixelRepresentation {signed}; "
                "they contradict each other"
            )
        self._bits, self._low, self._signed = stored, high + 1 - stored, bool(signed)
        self.dropped = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Smallest dtype of the stored values."""
        wide = 8 if self._bits <= 8 else 16 if self._bits <= 16 else 32
        return np.dtype(f"{'int' if self._signed else 'uint'}{wide}")

    def frame(self, index: int) -> NDArray[Any]:
        """Stored values (rows, columns) of one frame: the bits from the highest, with their sign.

        Raises
        ------
        InputError
            If they cannot be decoded.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                raw = pixel_array(self._dataset, index=index, raw=True, correct_unused_bits=False)
        except MemoryError:
            raise
        except Exception as error:  # plugins raise any
            raise InputError(
                f"{self._name}: its voxels cannot be decoded ({one_line(error, most=160)}); convert it with another "
                "tool"
            ) from error
        values = raw.astype(np.int64) >> self._low
        wrapped = values & ((1 << self._bits) - 1)
        if self._signed:
            wrapped -= (wrapped >> (self._bits - 1)) << self._bits
        above = values >> self._bits  # what repeats the sign is no value
        self.dropped += int(np.count_nonzero((above != 0) & ~(self._signed & (above == -1))))
        return wrapped
