"""Models from the Hugging Face Hub.

Where and as whom is huggingface_hub's affair: `hf auth login`, HF_TOKEN, HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from pushforward.core.errors import CheckpointError, InputError
from pushforward.core.version import __version__
from pushforward.runtime.shipped import copied

SCHEME = "hub:"
# The files of a model; a repository may hold others, which are not fetched.
WANTED = ["model.json", "*.safetensors"]


def is_on_hub(name: str | Path) -> bool:
    """Whether this is the name of a model on the Hub, `hub:OWNER/NAME` or `hub:OWNER/NAME@REVISION`."""
    return str(name).startswith(SCHEME)


def fetch(name: str | Path) -> Path:
    """The folder of a model on the Hub in huggingface_hub's cache, downloaded if it is not there or has changed.

    Of the repository only model.json and safetensors are taken. Raises InputError for what is no name, and
    CheckpointError where there is no such model or the Hub cannot be reached.
    """
    repository, _, revision = str(name).removeprefix(SCHEME).partition("@")
    with explained(repository):
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=WANTED, library_name="pushforward",
            library_version=__version__,
        )  # fmt: skip
    return Path(folder)


def own_copy(name: str | Path) -> Path:
    """runs/hub/OWNER/NAME-COMMIT with a copy of a model on the Hub, downloaded if need be.

    A copy, so that samples, figures and fitted samplers have a place beside the model, as those of any run; named by
    its commit, so that a newer model of the name is another run.
    """
    folder = fetch(name)  # huggingface_hub names it by the whole hash of the commit
    repository = str(name).removeprefix(SCHEME).partition("@")[0]
    copy = Path("runs", "hub", f"{repository}-{folder.name[:8]}")
    return copied(folder, copy, f"{name} comes from the Hub")


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Faults of the Hub in our words."""
    if find_spec("huggingface_hub") is None:
        raise InputError("models on the Hub need huggingface_hub: pip install -e '.[hub]'")
    from huggingface_hub import errors

    # What it calls the faults of its HTTP library, whichever that is.
    unreachable: type[Exception] = errors.__dict__["HTTPError"]

    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(
            f"{repository!r} is no name on the Hub, which is OWNER/NAME of letters, digits, '-', '_' and '.': {error}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{repository} on the Hub has no such revision") from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no model {repository} on the Hub that you may see: check the name, and log in (hf auth login, "
            f"or HF_TOKEN) if it is private"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise InputError(
                f"the Hub does not let you write {repository}: log in with a token that may write (hf auth login, or "
                f"HF_TOKEN)"
            ) from error
        raise CheckpointError(f"the Hub refused {repository}: {_first(error)}") from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository} is not in the cache, and the Hub cannot be reached: {_first(error)}"
        ) from error
    except (OSError, unreachable) as error:
        raise CheckpointError(f"cannot reach the Hub for {repository}: {_first(error)}") from error


def _first(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
