"""Certificates for a fleet: its own authority, and one certificate that all machines share.

Dask's ``Security.temporary`` makes such a set too, but valid from this second on: clocks of small devices differ.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench.errors import BadInputError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

DAYS = 365


def make(folder: Path, days: int = DAYS) -> None:
    """Write ``ca.pem``, ``node.pem`` and ``node-key.pem``. The authority's key is not kept.

    Raises:
        BadInputError: the folder is not empty, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise BadInputError(f"{folder}: is not empty; name a new folder")
        authority, node = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        (folder / "ca.pem").write_bytes(
            _certificate("slmbench fleet authority", authority, None, days).public_bytes(pem)
        )
        (folder / "node.pem").write_bytes(_certificate("slmbench fleet node", node, authority, days).public_bytes(pem))
        key = node.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        # Others must not be able to read it even for a moment.
        handle = os.open(folder / "node-key.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(key)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written: {error.strerror}") from error


def _certificate(
    name: str, key: EllipticCurvePrivateKey, issuer_key: EllipticCurvePrivateKey | None, days: int
) -> x509.Certificate:
    """Return a certificate for the key. Without an issuer's key it is its own issuer: an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named("slmbench fleet authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # An hour back: the clocks of the devices differ.
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=issuer_key is None, path_length=None), critical=True)
    )
    return builder.sign(issuer_key or key, hashes.SHA256())
