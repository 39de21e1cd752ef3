"""Files from the network, kept in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from pushforward.core.errors import DataError

TIMEOUT = 60  # seconds without an answer


def cache_folder() -> Path:
    """Where fetched data are kept: $PUSHFORWARD_CACHE, or `pushforward` in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("PUSHFORWARD_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pushforward"


def fetch(address: str, folder: Path, sha256: str | None, instead: str) -> Path:
    """The file at an address, downloaded into a folder under its own name, unless it is there.

    sha256: of its content; None if the caller checks it. instead: what else the user can do, for the error.
    Raises DataError without pooch or a network, and for other content.
    """
    try:
        import pooch
    except ImportError as error:
        raise DataError(
            f"{address} is downloaded by pooch, which is not installed; pip install -e '.[download]'. {instead}"
        ) from error
    name = address.rsplit("/", 1)[1]
    try:
        found = pooch.retrieve(
            address,
            known_hash=None if sha256 is None else f"sha256:{sha256}",
            path=folder,
            fname=name,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    # What requests raises is an OSError; other content is a ValueError.
    except (OSError, ValueError) as error:
        raise DataError(f"cannot get {address}: {error}. {instead}") from error
    return Path(found)
