"""What the programs in these scripts share: the versions in use, and the verdict."""

import logging
import platform
import sys
from importlib.metadata import version

# The exporters and loaders log about optional packages that play no part here.
logging.disable(logging.WARNING)


def versions(*names: str) -> None:
    """Print the versions of Python and of the distributions ``names``."""
    parts = [f"python {platform.python_version()}", *(f"{name} {version(name)}" for name in names)]
    print(", ".join(parts))


def expected(text: str) -> None:
    """Print what the documentation, or the mathematics, lets one expect."""
    print("expected:", text)


def seen(text: str, holds: bool) -> None:
    """Print one observation; exit with status 1 if it is not the one the script describes."""
    print("seen:", text)
    if not holds:
        sys.exit("no longer as described")
