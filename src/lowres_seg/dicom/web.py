"""DICOMweb: fetch the images of a study from a server, and store a segmentation there.

This is the one module that reaches a network, and only for an address that the user wrote. A user and a password, or a
token, come from the environment, or from ``~/.netrc``; they are sent by TLS, or to this machine, and nowhere else.
Certificates are checked; ``REQUESTS_CA_BUNDLE`` names the authority of a server that has one of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pydicom
import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.errors import InvalidDicomError

from lowres_seg.dicom.address import Address
from lowres_seg.errors import InputError, LowresSegError, one_line

USER, PASSWORD, TOKEN = (f"LOWRES_SEG_DICOMWEB_{name}" for name in ("USER", "PASSWORD", "TOKEN"))
#: Seconds to wait for a connection, and for the next bytes of an answer.
_PATIENCE_S = (10, 120)
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
#: Keys of a series in a server's list: its UID, its modality, and how many images it has.
_UID, _MODALITY, _IMAGES = "0020000E", "00080060", "00201209"


class _Token(requests.auth.AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class _Nobody(requests.auth.AuthBase):
    """No user at all, where requests would look one up in ``~/.netrc``."""

    def __call__(self, request: Any) -> Any:
        return request


def fetch(address: Address, folder: Path) -> list[Path]:
    """Write the MR images of a study or a series into a folder, one at a time.

    Parameters
    ----------
    address : Address
    folder : pathlib.Path
        A folder that exists.

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    InputError
        If the server cannot be reached, is not trusted, or refuses; if it has no such images, or sends other than it
        lists.
    """
    with _told(address):
        client = _client(address)
        listed = client.search_for_series(address.study, fields=[_MODALITY, _IMAGES])
        series = {_value(one, _UID): one for one in listed}
        if address.series is not None:
            series = {uid: one for uid, one in series.items() if uid == address.series}
        if not series:
            what = "study" if address.series is None else "series"
            raise InputError(f"{address}: is no {what} that the server has; expected the UID of one")
        images = {uid: one for uid, one in series.items() if _value(one, _MODALITY) in ("MR", None)}
        if not images:
            kinds = sorted({str(_value(one, _MODALITY)) for one in series.values()})
            raise InputError(f"{address}: has no MR images, only {', '.join(kinds)}; name a study or series of MR")
        paths: list[Path] = []
        for uid, one in images.items():
            before = len(paths)
            for image in client.iter_series(address.study, uid, media_types=(("application/dicom", "*"),)):
                paths.append(folder / f"{len(paths):06d}.dcm")
                image.save_as(paths[-1])
            expected = _value(one, _IMAGES)
            if expected is not None and len(paths) - before != int(expected):
                raise InputError(
                    f"{address}: the server lists {expected} images of series {uid} and sent {len(paths) - before}; "
                    "try once more"
                )
    return paths


def store(address: Address, file: Path) -> None:
    """Store a DICOM file in the study of an address.

    Raises
    ------
    InputError
        If the server cannot be reached, is not trusted, refuses, or does not store it.
    """
    with _told(address):
        client = _client(address)
        client.set_chunk_size(max(file.stat().st_size * 2, 1))  # whole: proxies refuse what does not tell its length
        answer = client.store_instances([pydicom.dcmread(file)], study_instance_uid=address.study)
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        reason = failed[0].get("FailureReason")
        code = "" if reason is None else f" (failure reason {reason:#06x})"
        raise InputError(f"{address}: the server did not store {file.name}{code}; see its log")


def _value(one: dict[str, Any], key: str) -> Any:
    """First value of a key in DICOM's JSON; None if there is none."""
    return next(iter(one.get(key, {}).get("Value", [])), None)


def _client(address: Address) -> DICOMwebClient:
    session = requests.Session()
    session.auth = _authority(address)
    client = DICOMwebClient(address.service, session=session, timeout=_PATIENCE_S)
    client.set_http_retry_params(retry=False)
    return client


def _authority(address: Address) -> Any:
    """What a request says of the user; None lets requests look into ``~/.netrc``."""
    user, password, token = (os.environ.get(name) for name in (USER, PASSWORD, TOKEN))
    if not address.is_private:
        if user or password or token:
            raise InputError(
                f"{address}: would get a password or token of the environment without encryption; expected https://"
            )
        return _Nobody()
    if token:
        return _Token(token)
    if user or password:
        return (user or "").encode(), (password or "").encode()
    return None


@contextmanager
def _told(address: Address) -> Iterator[None]:
    """Turn errors of the network into ours, in a line."""
    try:
        yield
    except LowresSegError:
        raise
    except requests.exceptions.SSLError as error:
        raise InputError(
            f"{address}: its certificate is not trusted ({_reason(error)}); name its authority's file in "
            "REQUESTS_CA_BUNDLE"
        ) from error
    except requests.exceptions.Timeout as error:
        raise InputError(
            f"{address}: does not answer in time; see that the server runs and can be reached from here"
        ) from error
    except requests.exceptions.HTTPError as error:
        raise InputError(f"{address}: {_refusal(error)}") from error
    except requests.exceptions.ConnectionError as error:
        raise InputError(f"{address}: cannot be reached ({_reason(error)}); see that the server runs") from error
    except (requests.exceptions.RequestException, InvalidDicomError, ValueError, KeyError) as error:
        raise InputError(
            f"{address}: answers what is no DICOMweb ({one_line(error, most=120)}); expected the address of a service, "
            "such as https://HOST/dicom-web/studies/UID"
        ) from error


def _refusal(error: requests.exceptions.HTTPError) -> str:
    status = error.response.status_code
    answer = f"{status} {error.response.reason}".strip()
    if status in (_UNAUTHORIZED, _FORBIDDEN):
        return f"refuses ({answer}); set {USER} and {PASSWORD}, or {TOKEN}, or write the user into ~/.netrc"
    if status == _NOT_FOUND:
        return f"is not there ({answer}); expected the address of a study or series that the server has"
    return f"answers {answer}; see the log of the server"


def _reason(error: BaseException) -> str:
    """What the system said of a connection, below what its libraries say around it."""
    found = one_line(error, most=120)
    inner: BaseException | None = error
    while inner is not None:
        told = getattr(inner, "verify_message", None) or getattr(inner, "strerror", None)
        found = told or found
        inner = inner.__cause__ or inner.__context__
    return found
