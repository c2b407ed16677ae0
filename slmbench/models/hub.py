"""Checkpoints from the Hugging Face Hub: safetensors only, pinned to a commit, offline from the Hub cache."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from slmbench.errors import BadInputError, CannotRunError, one_line
from slmbench.models.safetensors import INDEX_NAME, SINGLE_NAME, pickle_only

#: Everything a checkpoint needs; no pickle, no other framework's weights, no second copy of the weights.
_PATTERNS = ["config.json", "generation_config.json", "model*.safetensors", INDEX_NAME, "tokenizer*", "*.model",
             "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.spm", "*.jinja",
             "preprocessor_config.json", "processor_config.json"]  # fmt: skip


#: What the Hub's cache cannot be written for.
_CACHE_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
#: Files by which an artifact is known.
_ARTIFACTS = (".gguf", "openvino_model.xml", "openvino_decoder_model.xml", "genai_config.json", ".onnx")


class NoCheckpointError(BadInputError):
    """A repository without weights in safetensors: what else it holds may be an artifact."""


def download(
    repository: str,
    *,
    revision: str | None,
    offline: bool,
    trust_remote_code: bool,
    pickles: bool = False,
    check: Callable[..., object],
) -> tuple[Path, str]:
    """Return the local folder of a Hub checkpoint and the commit it is pinned to.

    ``check(config, where, trust_remote_code=...)`` sees the config before the weights are fetched, and raises
    if the checkpoint cannot be used.

    Raises:
        BadInputError: no such repository or revision, no safetensors, or what ``check`` raises.
        CannotRunError: the Hub cannot be reached, the files are not in the cache (offline), or the disk is full.
    """
    from huggingface_hub import constants

    patterns = [*_PATTERNS, "*.py"] if trust_remote_code else _PATTERNS
    if pickles:
        patterns = [*patterns, "pytorch_model*.bin", "pytorch_model.bin.index.json"]
    if offline or constants.HF_HUB_OFFLINE:
        folder, commit = _from_cache(repository, revision, patterns)
        if not any(folder.glob("*.safetensors*")) and not any(folder.glob("pytorch_model*.bin")):
            raise NoCheckpointError(f"{repository}: its folder in the Hub cache has no {SINGLE_NAME}")
        return folder, commit
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    where = f"{repository}@{revision}" if revision else repository
    with _reported(where):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        commit = str(info.sha)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        if "config.json" not in sizes:
            raise NoCheckpointError(f"{where}: the Hub repository has no config.json")
        suffix = ".safetensors"
        if not sizes.keys() & {SINGLE_NAME, INDEX_NAME}:
            pickled = [name for name in sizes if name.endswith(".bin") and name.replace(".bin", ".xml") not in sizes]
            # As in a local folder: an artifact that can be measured comes before weights that nobody may load.
            if not pickled or (not pickles and any(name.endswith(_ARTIFACTS) for name in sizes)):
                raise NoCheckpointError(f"{where}: the Hub repository has no {SINGLE_NAME}")
            if not pickles:
                raise BadInputError(pickle_only(where, pickled[0]))
            suffix = ".bin"
        elif pickles:
            # The weights are there in both formats; the pickles are not needed.
            patterns = [pattern for pattern in patterns if "pytorch_model" not in pattern]
        config = json.loads(Path(hf_hub_download(repository, "config.json", revision=commit)).read_bytes())
        check(config, f"{where}/config.json", trust_remote_code=trust_remote_code)
        _check_disk(where, sum(size for name, size in sizes.items() if name.endswith(suffix)))
        # By the name that was asked, so that the cache remembers which commit it stood for (offline, later).
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        return folder, folder.name


def _from_cache(repository: str, revision: str | None, patterns: list[str]) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError) as error:
        where = f"{repository}@{revision}" if revision else repository
        raise CannotRunError(
            f"{where} is not in the Hub cache, and this is offline; run once with a network"
        ) from error
    return Path(folder), Path(folder).name


def list_files(repository: str, *, revision: str | None, offline: bool) -> dict[str, int]:
    """Return the files of a repository with their sizes; offline those that are in the Hub's cache.

    Raises:
        BadInputError: no such repository or revision.
        CannotRunError: the Hub cannot be reached, or nothing of it is in the cache (offline).
    """
    from huggingface_hub import HfApi, constants

    if offline or constants.HF_HUB_OFFLINE:
        folder, _ = _from_cache(repository, revision, ["*"])
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    with _reported(f"{repository}@{revision}" if revision else repository):
        info = HfApi().model_info(repository, revision=revision, files_metadata=True)
        return {file.rfilename: file.size or 0 for file in info.siblings or []}


def download_files(
    repository: str, patterns: list[str], sizes: dict[str, int], *, revision: str | None, offline: bool
) -> tuple[Path, str]:
    """Return the local folder with those files of a repository that fit a pattern, and its commit.

    Raises:
        CannotRunError: the Hub cannot be reached, or the disk is full.
    """
    from huggingface_hub import constants, snapshot_download

    if offline or constants.HF_HUB_OFFLINE:
        return _from_cache(repository, revision, patterns)
    where = f"{repository}@{revision}" if revision else repository
    with _reported(where):
        _check_disk(where, sum(size for name, size in sizes.items() if any(fnmatch(name, one) for one in patterns)))
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        return folder, folder.name


def _check_disk(where: str, needed: int) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CannotRunError(
            f"{where}: its weights are {needed / 1e9:.1f} GB, {existing} has {free / 1e9:.1f} GB free; "
            "set HF_HOME to a larger disk"
        )


class _reported:  # noqa: N801 (reads as a statement: `with _reported(where)`)
    """Turns the Hub client's errors into one line each."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (BadInputError, CannotRunError)):
            return
        from huggingface_hub import errors

        where = self.where
        if isinstance(error, errors.GatedRepoError):
            raise CannotRunError(
                f"{where}: gated; accept its terms on the Hub and log in with `hf auth login`"
            ) from error
        if isinstance(error, errors.RepositoryNotFoundError):
            raise BadInputError(f"{where}: no such model on the Hub (or a private one, and no token)") from error
        if isinstance(error, (errors.RevisionNotFoundError, errors.HFValidationError, errors.EntryNotFoundError)):
            raise BadInputError(f"{where}: {one_line(str(error))[:160]}") from error
        if isinstance(error, ValueError):
            raise BadInputError(f"{where}: config.json is not JSON") from error
        if isinstance(error, OSError) and error.errno in _CACHE_CLOSED and error.filename:
            raise CannotRunError(
                f"{where}: {error.filename}: {error.strerror}; set HF_HOME to a folder that can be written"
            ) from error
        # What is left is the network: httpx's and the operating system's errors, and the Hub's own HTTP errors.
        if isinstance(error, (OSError, errors.HfHubHTTPError)) or type(error).__module__.startswith("httpx"):
            raise CannotRunError(
                f"{where}: the Hub cannot be reached{_by_proxy()} ({one_line(str(error))[:160]}); --offline uses what "
                "is cached, a folder with a copy from elsewhere can be named instead"
            ) from error


def _by_proxy() -> str:
    """Return through which proxy the Hub is asked, without its password; empty where there is none."""
    proxy = getproxies().get("https") or getproxies().get("all")
    return f" through the proxy {urlsplit(proxy).hostname or proxy} (HTTPS_PROXY)" if proxy else ""
