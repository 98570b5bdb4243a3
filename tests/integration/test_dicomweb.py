"""DICOMweb against a real PACS: an Orthanc on the loopback, with TLS and a user."""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pydicom
import pytest

from lowres_seg.bundle.pipeline import Code, Label, SegmentCodes
from lowres_seg.dicom import web
from lowres_seg.dicom.address import Address, is_address
from lowres_seg.dicom.segmentation import Algorithm, segmentation, write
from lowres_seg.errors import InputError
from lowres_seg.volumes.volume import Volume
from made_series import affine, save, series
from orthanc import PASSWORD, USER, Orthanc, running

BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
LABELS = [Label(value=1, name="brain", codes=SegmentCodes(category=BRAIN, type=BRAIN))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A PACS with one study: two series of MR, and a file of CT."""
    folder = tmp_path_factory.mktemp("orthanc")
    with running(folder / "server") as one:
        one.upload(save(series((6, 10, 8)), folder / "t1"))
        study = series()[0].StudyInstanceUID
        for n, modality in ((1, "MR"), (2, "CT")):
            others = series((3, 4, 5), seed=n, Modality=modality, StudyInstanceUID=study)
            one.upload(save(others, folder / modality))
        yield one


@pytest.fixture
def user(server: Orthanc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.USER, USER)
    monkeypatch.setenv(web.PASSWORD, PASSWORD)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.authority))


def study_of(server: Orthanc, number: int | None = None) -> Address:
    images = series()
    uid = "" if number is None else f"/series/{series(seed=number)[0].SeriesInstanceUID}"
    return Address.parse(f"{server.service}/studies/{images[0].StudyInstanceUID}{uid}")


@pytest.mark.usefixtures("user")
def test_a_study_comes_with_its_mr_images_as_they_were(server: Orthanc, tmp_path: Path) -> None:
    found = [pydicom.dcmread(path) for path in web.fetch(study_of(server), tmp_path)]
    sent = {image.SOPInstanceUID: image for image in [*series((6, 10, 8)), *series((3, 4, 5), seed=1)]}
    assert {image.SOPInstanceUID for image in found} == set(sent)
    for image in found:
        np.testing.assert_array_equal(image.pixel_array, sent[image.SOPInstanceUID].pixel_array)
    (tmp_path / "one").mkdir()
    assert len(web.fetch(study_of(server, 1), tmp_path / "one")) == 3


@pytest.mark.usefixtures("user")
def test_a_segmentation_is_stored_once(server: Orthanc, tmp_path: Path) -> None:
    images = series((6, 10, 8))
    mask = Volume.from_array(np.ones((8, 10, 6), np.uint8), affine(images))
    for n in range(2):
        path = tmp_path / f"{n}.dcm"
        write(path, segmentation(images, mask, LABELS, Algorithm("tiny", "1", "ab" * 32)))
        web.store(study_of(server), path)
    (stored,) = server.files_of("SEG")
    found, first = pydicom.dcmread(io.BytesIO(stored)), pydicom.dcmread(tmp_path / "0.dcm")
    assert found.SOPInstanceUID == first.SOPInstanceUID
    assert found.StudyInstanceUID == images[0].StudyInstanceUID
    assert found.PixelData == first.PixelData
    other = Address.parse(f"{server.service}/studies/1.2.3")
    with pytest.raises(InputError, match=r"studies/1.2.3: (the server did not store|answers)"):
        web.store(other, tmp_path / "0.dcm")


def test_a_user_of_netrc_is_taken(server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine localhost login plain password word\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.authority))
    assert len(web.fetch(study_of(server, 1), tmp_path)) == 3


def test_without_a_user_or_with_a_wrong_one_the_server_refuses(
    server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(server.authority))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"refuses \(401.*\); set LOWRES_SEG_DICOMWEB_USER and .*netrc"):
        web.fetch(study_of(server), tmp_path)
    monkeypatch.setenv(web.TOKEN, "a-token")
    with pytest.raises(InputError, match=r"refuses \(401") as told:
        web.fetch(study_of(server), tmp_path)
    assert "a-token" not in str(told.value)


@pytest.mark.usefixtures("user")
def test_what_is_not_there_is_told_in_a_line(server: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(server)
    with pytest.raises(InputError, match="studies/1.2.3: is no study that the server has"):
        web.fetch(Address.parse(f"{server.service}/studies/1.2.3"), tmp_path)
    with pytest.raises(InputError, match="series/1.2.3: is no series that the server has"):
        web.fetch(Address.parse(f"{study}/series/1.2.3"), tmp_path)
    with pytest.raises(InputError, match="has no MR images, only CT; name a study or series of MR"):
        web.fetch(study_of(server, 2), tmp_path)
    with pytest.raises(InputError, match=r"is not there \(404"):
        web.fetch(Address.parse(str(study).replace("dicom-web", "elsewhere")), tmp_path)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(InputError, match=r"certificate is not trusted \(self.signed certificate.*REQUESTS_CA_BUNDLE"):
        web.fetch(study, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_PATIENCE_S", (0.2, 0.2))
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = Address.parse(f"http://127.0.0.1:{deaf.getsockname()[1]}/studies/1.2")
        with pytest.raises(InputError, match=r"cannot be reached \(Connection refused\)"):
            web.fetch(address, tmp_path)
        deaf.listen()
        with pytest.raises(InputError, match="does not answer in time"):
            web.fetch(address, tmp_path)
    with pytest.raises(InputError, match=r"cannot be reached \(Name or service not known|cannot be reached \(.*name"):
        web.fetch(Address.parse("http://nowhere.invalid/studies/1.2"), tmp_path)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n<html>log in</html>", b"SSH-2.0-OpenSSH_9\r\n"]
)
def test_what_is_no_dicomweb_is_told_in_a_line(tmp_path: Path, answer: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        one, _ = listener.accept()
        with one:
            one.recv(4096)
            one.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with pytest.raises(InputError, match=r"answers what is no DICOMweb|cannot be reached") as told:
            web.fetch(Address.parse(f"http://127.0.0.1:{listener.getsockname()[1]}/studies/1.2"), tmp_path)
        thread.join()
    assert "\n" not in str(told.value)


class Forgetful(BaseHTTPRequestHandler):
    """A server that lists three images of a series, and sends two; or breaks off within the second."""

    cut = 0

    def do_GET(self) -> None:
        images = series((2, 4, 5))
        if self.path.partition("?")[0].endswith("/series"):
            one = {"0020000E": "1.3", "00080060": "MR", "00201209": 3}
            kind, body = (
                "application/dicom+json",
                json.dumps([{key: {"Value": [v]} for key, v in one.items()}]).encode(),
            )
        else:
            kind, body = 'multipart/related; type="application/dicom"; boundary=b', b""
            for image in images:
                stream = io.BytesIO()
                image.save_as(stream, enforce_file_format=True)
                body += b"\r\n--b\r\nContent-Type: application/dicom\r\n\r\n" + stream.getvalue()
            body += b"\r\n--b--"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) - (self.cut if "multipart" in kind else 0)])

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("cut", "says"), [(0, "the server lists 3 images of series 1.3 and sent 2"), (150, "IncompleteRead|broken")]
)
def test_what_a_server_leaves_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int, says: str) -> None:
    monkeypatch.setattr(Forgetful, "cut", cut)
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(InputError, match=says) as told:
                web.fetch(Address.parse(f"http://127.0.0.1:{server.server_port}/studies/1.2"), tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert "\n" not in str(told.value)


def test_a_password_goes_by_tls_or_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.PASSWORD, "geheim")
    with pytest.raises(InputError, match="without encryption; expected https") as told:
        web.fetch(Address.parse("http://pacs.invalid/dicom-web/studies/1.2"), tmp_path)
    assert "geheim" not in str(told.value)


def test_addresses_are_those_of_a_study_or_a_series() -> None:
    plain = Address.parse("https://pacs:8043/a/dicom-web/studies/1.2.3/series/4.5/")
    assert (plain.service, plain.study, plain.series) == ("https://pacs:8043/a/dicom-web", "1.2.3", "4.5")
    assert str(plain) == "https://pacs:8043/a/dicom-web/studies/1.2.3/series/4.5"
    assert Address.parse("HTTPS://[::1]:1/studies/1").service == "https://[::1]:1"
    assert is_address("https://pacs/studies/1")
    assert not is_address("study.nii.gz")
    for private in ("https://pacs", "http://localhost:8042", "http://127.0.0.2", "http://[::1]:8042"):
        assert Address.parse(f"{private}/studies/1").is_private
    for open_ in ("http://pacs", "http://127.0.0.1.evil.org", "http://localhost.evil.org"):
        assert not Address.parse(f"{open_}/studies/1").is_private


@pytest.mark.parametrize(
    "word",
    [
        "https://pacs/dicom-web",
        "https://pacs/studies/1.2/series",
        "https://pacs/studies/1.2/series/3/instances/4",
        "https://pacs/studies/a.b",
        "https://pacs/studies/1.2?x=1",
        "https:///studies/1.2",
        "https://pacs:port/studies/1.2",
        f"https://pacs/studies/{'1' * 65}",
    ],
)
def test_other_addresses_are_refused_in_a_line(word: str) -> None:
    with pytest.raises(InputError, match="expected https://HOST/SERVICE/studies/UID") as told:
        Address.parse(word)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "word", ["https://me:geheim@pacs/studies/1", "https://geheim@pacs/studies/1", "http://:geheim@[::1]/x"]
)
def test_a_password_in_an_address_is_refused_and_not_repeated(word: str) -> None:
    with pytest.raises(InputError, match="LOWRES_SEG_DICOMWEB_USER") as told:
        Address.parse(word)
    assert "geheim" not in str(told.value)
    assert "me:" not in str(told.value)
