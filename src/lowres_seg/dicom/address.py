"""Addresses of studies and series on a DICOMweb server, such as ``https://pacs/dicom-web/studies/1.2/series/1.2.3``.

Nothing here reaches a network, and nothing repeats what stands before an ``@``: it may be a password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from lowres_seg.errors import InputError, shown

#: A UID of DICOM: numbers with dots between them, at most 64 characters.
_UID = r"[0-9](?:[0-9.]{0,62}[0-9])?"
_PATH = re.compile(rf"(?P<service>.*)/studies/(?P<study>{_UID})(?:/series/(?P<series>{_UID}))?/?")
_EXPECTED = "https://HOST/SERVICE/studies/UID, or with /series/UID behind it"


def is_address(word: str) -> bool:
    """Tell whether an input of the command line is an address, and no path."""
    return word.lower().startswith(("https://", "http://"))


@dataclass(frozen=True)
class Address:
    """A study, or one series of it, on a server.

    Attributes
    ----------
    service : str
        Address of the DICOMweb service, without a slash at its end.
    host : str
        Name of the server, without its port.
    study : str
    series : str or None
    """

    service: str
    host: str
    study: str
    series: str | None = None

    @classmethod
    def parse(cls, word: str) -> Address:
        """Read an address.

        Raises
        ------
        InputError
            If it is none of a study or a series, or has a user or a password.
        """
        try:
            parts = urlsplit(word)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise InputError(f"address of a study: is no URL; expected {_EXPECTED}") from error
        if parts.username is not None or parts.password is not None or "@" in parts.netloc:
            raise InputError(
                f"address of a study on {host or 'a server'}: has a user or a password, which others see in lists of "
                "processes; set LOWRES_SEG_DICOMWEB_USER and LOWRES_SEG_DICOMWEB_PASSWORD, or write them into ~/.netrc"
            )
        found = _PATH.fullmatch(parts.path)
        if not is_address(word) or not host or parts.query or parts.fragment or found is None:
            raise InputError(f"{shown(word)}: is no address of a study or series; expected {_EXPECTED}")
        name = f"[{host}]" if ":" in host else host
        where = name if port is None else f"{name}:{port}"
        return cls(f"{parts.scheme.lower()}://{where}{found['service']}", host, found["study"], found["series"])

    def __str__(self) -> str:
        return f"{self.service}/studies/{self.study}" + ("" if self.series is None else f"/series/{self.series}")

    @property
    def is_private(self) -> bool:
        """True if nobody between here and the server reads what is sent: by TLS, or because the server is here."""
        here = self.host == "localhost" or self.host == "::1" or re.fullmatch(r"127(\.[0-9]+){3}", self.host)
        return self.service.startswith("https://") or bool(here)
