"""An Orthanc of a test: a real PACS on the loopback, with DICOMweb and a user, and TLS in front of it.

Debian's Orthanc 1.10.1 ends with a fault of memory when it speaks TLS itself, so a proxy does, as in most hospitals.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

USER, PASSWORD = "reader", "s3cr#t-é"
_PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@dataclass
class Orthanc:
    """A server that runs: its own address, that of the proxy with TLS, and the file of the proxy's certificate."""

    plain: str
    root: str
    authority: Path

    @property
    def service(self) -> str:
        return f"{self.root}/dicom-web"

    def ask(self, path: str, body: bytes | None = None) -> Any:
        """Ask its own interface, not DICOMweb: another way than the package's."""
        token = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(f"{self.plain}{path}", body, {"Authorization": f"Basic {token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers.get_content_type() == "application/json" else content

    def upload(self, paths: list[Path]) -> None:
        for path in paths:
            self.ask("/instances", path.read_bytes())

    def files_of(self, modality: str) -> list[bytes]:
        """Every instance of a modality that it has."""
        series = [one for one in self.ask("/series?expand") if one["MainDicomTags"].get("Modality") == modality]
        return [self.ask(f"/instances/{uid}/file") for one in series for uid in one["Instances"]]


@contextmanager
def running(folder: Path, *, environment: dict[str, str] | None = None, **options: Any) -> Iterator[Orthanc]:
    """Start an Orthanc in a folder of its own, and stop it. PORT in its environment stands for its port."""
    program = shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    assert program is not None, "apt-get install orthanc orthanc-dicomweb"
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    authority = _certificate(folder)
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "Plugins": [_PLUGIN],
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: PASSWORD, "plain": "word"},
        "DicomWeb": {"Enable": True},
        **options,
    }
    (folder / "orthanc.json").write_text(json.dumps(configuration), encoding="utf-8")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, folder / "orthanc.json"],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, **{name: word.replace("PORT", str(port)) for name, word in (environment or {}).items()}},
        )
    with proxied(folder / "server.pem", port) as secure:
        server = Orthanc(f"http://localhost:{port}", f"https://localhost:{secure}", authority)
        try:
            for _ in range(600):
                try:
                    server.ask("/system")
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text(errors="replace")
                    time.sleep(0.05)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def proxied(pem: Path, port: int) -> Iterator[int]:
    """Speak TLS on a port, which is yielded, in front of another one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    loop = asyncio.new_event_loop()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
        with suppress(asyncio.CancelledError):  # where the test ends first
            await asyncio.gather(copy(reader, behind), copy(behind_reader, writer), return_exceptions=True)
        for one in (behind, writer):
            one.transport.abort()

    async def ended() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # connections that were aborted are lost in the next turns

    server = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.run_until_complete(ended())
        loop.close()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _certificate(folder: Path) -> Path:
    """Write a key with a certificate of localhost for the server, and the certificate for who trusts it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    written = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + written)
    (folder / "authority.pem").write_bytes(written)
    return folder / "authority.pem"
