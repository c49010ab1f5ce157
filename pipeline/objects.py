"""Objects of an S3-compatible store: sources that are read in place, and where a run is published to.

Such a source is a path ``/vsis3/BUCKET/KEY`` throughout, which is what GDAL calls it; people write ``s3://BUCKET/KEY``.
Nobody but this module makes such paths, so that GDAL never gets one that was not built here. Credentials, region and
endpoint are those of the environment (``AWS_ACCESS_KEY_ID`` ...) and are kept nowhere else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from pipeline.errors import InputError

SCHEME = "s3://"
ROOT = "/vsis3/"
REQUEST_TIMEOUT = "60s"
RETRY_TIMEOUT = timedelta(seconds=120)
THREADS = 8

_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<key>.*))?")


@dataclass(frozen=True)
class ObjectFacts:
    """What a store says about an object: its size in bytes and its ETag, which changes with its content."""

    size: int
    etag: str


def is_url(text: object) -> bool:
    """Whether a source or target is an object or a prefix of them."""
    return isinstance(text, str) and text.startswith(SCHEME)


def is_object(path: Path | str) -> bool:
    """Whether a path is that of an object."""
    return str(path).startswith(ROOT)


def to_path(url: str) -> Path:
    """Return the path by which an object is known here.

    Raises
    ------
    InputError
        The address is not one of a bucket and a plain key.

    Examples
    --------
    >>> str(to_path("s3://quads/2021/a.tif"))
    '/vsis3/quads/2021/a.tif'
    """
    match = _URL.fullmatch(url)
    parts = [] if match is None else (match["key"] or "").rstrip("/").split("/")
    if match is None or (parts != [""] and any(part in {"", ".", ".."} for part in parts)):
        raise InputError(f"{url}: is no address of the form s3://BUCKET/KEY; check it")
    return Path(ROOT + "/".join([match["bucket"], *(part for part in parts if part)]))


def to_text(path: Path | str) -> str:
    """Return a path as people write it: objects by their address, files as they are.

    Examples
    --------
    >>> to_text("/vsis3/quads/a.tif"), to_text("/data/a.tif")
    ('s3://quads/a.tif', '/data/a.tif')
    """
    text = str(path)
    return SCHEME + text.removeprefix(ROOT) if text.startswith(ROOT) else text


def split(path: Path | str) -> tuple[str, str]:
    """Return bucket and key of an object."""
    bucket, _, key = str(path).removeprefix(ROOT).partition("/")
    return bucket, key


def head(path: Path) -> ObjectFacts:
    """Ask the store for an object; raises FileNotFoundError where there is none, OSError where it does not answer."""
    bucket, key = split(path)
    try:
        found = obstore.head(_store(bucket), key)
    except FileNotFoundError:
        raise
    except BaseError as error:
        raise OSError(f"{to_text(path)}: {_reason(error)}") from error
    return ObjectFacts(int(found["size"]), str(found["e_tag"]))


def read_start(path: Path, length: int) -> bytes:
    """Return the first bytes of an object."""
    bucket, key = split(path)
    size = min(length, head(path).size)
    try:
        return bytes(obstore.get_range(_store(bucket), key, start=0, length=size)) if size else b""
    except BaseError as error:
        raise OSError(f"{to_text(path)}: {_reason(error)}") from error


def list_folder(folder: Path) -> list[Path]:
    """Return the objects right below a prefix, by name; raises OSError where the store does not answer."""
    bucket, key = split(folder)
    try:
        found = obstore.list_with_delimiter(_store(bucket), prefix=f"{key}/" if key else None)
    except (BaseError, FileNotFoundError) as error:
        raise OSError(f"{to_text(folder)}: {_reason(error)}") from error
    return sorted(Path(f"{ROOT}{bucket}/{each['path']}") for each in found["objects"])


def list_all(prefix: Path) -> list[str]:
    """Return the keys below a prefix, counted from it."""
    bucket, key = split(prefix)
    try:
        pages = list(obstore.list(_store(bucket), prefix=f"{key}/" if key else None))
    except (BaseError, FileNotFoundError) as error:
        raise OSError(f"{to_text(prefix)}: {_reason(error)}") from error
    return [str(each["path"]).removeprefix(f"{key}/") for page in pages for each in page]


def read(path: Path) -> bytes | None:
    """Return the content of a small object; None where there is none."""
    bucket, key = split(path)
    try:
        return bytes(obstore.get(_store(bucket), key).bytes())
    except FileNotFoundError:
        return None
    except BaseError as error:
        raise OSError(f"{to_text(path)}: {_reason(error)}") from error


def write(path: Path, content: bytes) -> None:
    """Put a small object."""
    bucket, key = split(path)
    try:
        obstore.put(_store(bucket), key, content)
    except BaseError as error:
        raise OSError(f"{to_text(path)}: {_reason(error)}") from error


def delete(prefix: Path, names: Iterable[str]) -> None:
    """Delete objects below a prefix; those that are not there do not matter."""
    bucket, key = split(prefix)
    for name in names:
        try:
            obstore.delete(_store(bucket), f"{key}/{name}".lstrip("/"))
        except FileNotFoundError:
            continue
        except BaseError as error:
            raise OSError(f"{to_text(prefix)}/{name}: {_reason(error)}") from error


def upload(folder: Path, names: Iterable[str], prefix: Path) -> None:
    """Put files of a folder below a prefix, some at a time, large ones in parts."""
    bucket, key = split(prefix)

    def put(name: str) -> None:
        try:
            obstore.put(_store(bucket), f"{key}/{name}".lstrip("/"), folder / name)
        except BaseError as error:
            raise OSError(f"{to_text(prefix)}/{name}: {_reason(error)}") from error

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(put, names))


@lru_cache(maxsize=16)
def _store(bucket: str) -> S3Store:
    plain = _is_plain_loopback(_endpoint())  # a store on this very machine may do without TLS
    return S3Store(
        bucket,
        client_options={"timeout": REQUEST_TIMEOUT, "allow_http": plain},
        retry_config={"max_retries": 5, "retry_timeout": RETRY_TIMEOUT},
    )


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _is_plain_loopback(endpoint: str | None) -> bool:
    parts = urlsplit(endpoint or "")
    return parts.scheme == "http" and parts.hostname in {"127.0.0.1", "localhost", "::1"}


def prepare_gdal() -> None:
    """Tell GDAL, which knows the endpoint by another name, what the environment says; call before it opens an object.

    Nothing is kept between openings, so that an object that has changed is read anew.
    """
    settings = {
        "CPL_VSIL_CURL_NON_CACHED": ROOT,
        "GDAL_HTTP_TIMEOUT": "60",
        "GDAL_HTTP_CONNECTTIMEOUT": "20",
        "GDAL_HTTP_MAX_RETRY": "5",
        "GDAL_HTTP_RETRY_DELAY": "1",
    }
    endpoint = _endpoint()
    if endpoint:
        parts = urlsplit(endpoint)
        settings["AWS_S3_ENDPOINT"] = parts.netloc
        settings["AWS_HTTPS"] = "NO" if _is_plain_loopback(endpoint) else "YES"
        settings["AWS_VIRTUAL_HOSTING"] = "FALSE"
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _reason(error: BaseException) -> str:
    """Return the first line of an error; the rest is the library's own debugging, down to requests."""
    return " ".join(str(error).splitlines()[0].split()) if str(error) else type(error).__name__
