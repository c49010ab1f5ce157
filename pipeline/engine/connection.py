"""Connecting to an existing Dask scheduler, with the certificate that the configuration of Dask names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

CONNECT_S = 10
"""How long a scheduler may take to answer."""


@contextmanager
def connect(address: str) -> Iterator[Client]:
    """Connect to the scheduler at `address`, and disconnect at the end; it goes on without us.

    Raises
    ------
    InputError
        Nobody answers there, the certificate is missing or refused, or the packages there are others.
    """
    from distributed import Client

    security = _read_security(address)
    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False, security=security)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: no Dask scheduler answers there{_with_our_certificate(address)} "
            f"({_one_line(error)}); start one or leave it out"
        ) from error
    with client:
        try:
            client.get_versions(check=True)
        except ValueError as error:
            raise InputError(
                f"--scheduler {address}: its packages differ from those here ({_one_line(error)}); "
                "use one environment for all"
            ) from error
        yield client


def _read_security(address: str) -> Security:
    """Return what Dask's configuration says of TLS; its client would find fault with it only when half connected."""
    from distributed.security import Security

    security = Security()
    try:
        context = security.get_connection_args("client")["ssl_context"]
    except OSError as error:  # an ssl.SSLError as well
        files = (security.tls_ca_file, security.tls_client_cert, security.tls_client_key)
        raise InputError(
            f"--scheduler {address}: cannot read the certificate of this client, in {', '.join(map(str, files))} "
            f"({_one_line(error)}); see Dask under TLS in deploy/README.md"
        ) from error
    encrypted = address.startswith("tls://")
    if encrypted and context is None:
        raise InputError(
            f"--scheduler {address}: needs a certificate of this client, and none is configured; set "
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, __CLIENT__CERT and __CLIENT__KEY (deploy/README.md, Dask under TLS)"
        )
    if not encrypted and security.require_encryption:
        raise InputError(
            f"--scheduler {address}: must be tls://HOST:PORT where DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION is set"
        )
    return security


def _with_our_certificate(address: str) -> str:
    return ", or it takes another authority's certificates" if address.startswith("tls://") else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
