"""Models of Hugging Face's hub: in the cache, fetched, listed and removed, all by huggingface_hub.

Only the files that we read are fetched: safetensors where a repository has them, its .nemo file
or CTranslate2's model.bin where not. Whatever the network does becomes a ModelNotFoundError that
says which files to get and where to put them. Called by parakeet_checkpoint.py,
whisper_checkpoint.py, recognizers.py and models_command.py. Knows no model.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelNotFoundError
from .model_parts import CONFIG, CTRANSLATE2_FILE, GENERATION_CONFIG, INDEX, SINGLE_FILE

if TYPE_CHECKING:
    from huggingface_hub import CachedRepoInfo  # the library itself takes 0.3 s to import

HUB_URL = "https://huggingface.co"
# Shards by their exact form: openai/whisper-large-v3 has model.fp32-00001-of-00002.safetensors
# too, 6 GB that nobody needs.
SAFETENSORS_FILES = (
    *(CONFIG, SINGLE_FILE, "model-?????-of-?????.safetensors", INDEX),
    *("tokenizer.json", "tokenizer.model", "vocab.txt"),
    *("preprocessor_config.json", "processor_config.json", GENERATION_CONFIG),
)
NEMO_FILES = ("*.nemo",)
CTRANSLATE2_FILES = (
    CONFIG,
    CTRANSLATE2_FILE,
    "tokenizer.json",
    "vocabulary.txt",
    "vocabulary.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Family:
    """The forms that a repository may have a model in, and what to say where it has none."""

    forms: tuple[tuple[str, ...], ...]  # in the order of preference; a repository may have several
    needed: str  # "neither ... nor ..."
    example: str  # for people: a repository that we can run


PARAKEET = Family(
    (SAFETENSORS_FILES, NEMO_FILES),
    f"neither {CONFIG} with {SINGLE_FILE} nor one .nemo file",
    "a Parakeet-TDT model, such as nvidia/parakeet-tdt-0.6b-v3",
)
WHISPER = Family(
    (SAFETENSORS_FILES, CTRANSLATE2_FILES),
    f"neither {CONFIG} with {SINGLE_FILE} nor CTranslate2's {CTRANSLATE2_FILE}",
    "a Whisper model, such as openai/whisper-large-v3",
)


@dataclass(frozen=True, slots=True)
class CachedModel:
    """One repository in the cache."""

    hub_id: str
    path: Path  # what load_checkpoint() reads: a folder, or a .nemo file
    num_bytes: int  # on the disk, all revisions


def is_hub_id(name: str) -> bool:
    """Whether this has the form of a repository's id: OWNER/NAME."""
    return HUB_ID.fullmatch(name) is not None


def find_in_hub(hub_id: str) -> Path | None:
    """The folder or the .nemo file in the cache; None if it is not there. No network."""
    from huggingface_hub import snapshot_download

    for files in (SAFETENSORS_FILES, NEMO_FILES, CTRANSLATE2_FILES):
        try:
            folder = Path(
                snapshot_download(hub_id, allow_patterns=list(files), local_files_only=True)
            )
        except (OSError, ValueError):  # not there, or only in part
            continue
        if (found := usable_path(folder)) is not None:
            return found
    return None


def pull(hub_id: str, check_config: Callable[[Path], object], family: Family = PARAKEET) -> Path:
    """Fetch what we need of a repository; what is in the cache already is not fetched again.

    `check_config` gets the folder once config.json is there, and may raise: nobody should wait for
    gigabytes of a model that can not be run. Raises ModelNotFoundError.
    """
    folder = _fetch(hub_id, (CONFIG,), show_progress=False)
    if folder is not None and (folder / CONFIG).is_file():
        check_config(folder)
    for files in family.forms:
        folder = _fetch(hub_id, files)
        found = None if folder is None else usable_path(folder)
        if found is not None:
            return found
    raise ModelNotFoundError(
        f"{hub_id} has {family.needed}", f"name a repository of {family.example}"
    )


def config_folder(hub_id: str) -> Path | None:
    """Where config.json of a repository lies: in the cache, or fetched alone.

    None where it has none, and where nothing of it can be had: pull() will say why.
    """
    found = find_in_hub(hub_id)
    if found is not None:
        return found if found.is_dir() else None
    try:
        folder = _fetch(hub_id, (CONFIG,), show_progress=False)
    except ModelNotFoundError:
        return None
    return folder if folder is not None and (folder / CONFIG).is_file() else None


def cached_models() -> list[CachedModel]:
    """Every repository in the cache that has the files of a model, by id."""
    models = []
    for repository in _repositories():
        path = find_in_hub(repository.repo_id)
        if path is not None:
            models.append(CachedModel(repository.repo_id, path, repository.size_on_disk))
    return sorted(models, key=lambda model: model.hub_id.lower())


def cached_bytes(hub_id: str) -> int:
    """What `remove` would free. Raises ModelNotFoundError."""
    return _repository(hub_id).size_on_disk


def remove(hub_id: str) -> None:
    """Delete every revision of a repository from the cache. Raises ModelNotFoundError."""
    from huggingface_hub import scan_cache_dir

    revisions = [revision.commit_hash for revision in _repository(hub_id).revisions]
    scan_cache_dir(cache_folder()).delete_revisions(*revisions).execute()


def usable_path(folder: Path) -> Path | None:
    """What load_checkpoint() reads in a repository's folder, if there is anything."""
    has_weights = (folder / SINGLE_FILE).is_file() or (folder / INDEX).is_file()
    if (folder / CONFIG).is_file() and has_weights:
        return folder
    if (folder / CONFIG).is_file() and (folder / CTRANSLATE2_FILE).is_file():
        return folder
    archives = sorted(folder.glob("*.nemo"))
    return archives[0] if len(archives) == 1 else None


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it fetches."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def not_in_cache(hub_id: str, cause: str = "") -> ModelNotFoundError:
    """The error that says what to fetch, and where it goes."""
    because = f": {cause}" if cause else ""
    return ModelNotFoundError(
        f"{hub_id} is not in {cache_folder()}{because}",
        f"run `earwire models pull {hub_id}` where there is a network; or get {CONFIG}, "
        f"{SINGLE_FILE} and tokenizer.json from {HUB_URL}/{hub_id}/tree/main, put them into a "
        "folder, and name that folder as the model",
    )


def _fetch(hub_id: str, files: tuple[str, ...], *, show_progress: bool = True) -> Path | None:
    """The folder with those of the files that there are; None if there are none of them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    bars = None if show_progress else _silent_bars()
    try:
        folder = snapshot_download(hub_id, allow_patterns=list(files), tqdm_class=bars)
        gc.collect()  # the library's bars hang in a cycle, and would be drawn over what comes next
        return Path(folder)
    except LocalEntryNotFoundError as error:
        raise not_in_cache(hub_id, _reason(error)) from error
    except EntryNotFoundError:
        return None
    # Each version raises its HTTP library's own exceptions, and has another HTTP library.
    except Exception as error:
        raise not_in_cache(hub_id, _reason(error)) from error


def _silent_bars() -> type[Any]:
    """A class of progress bars that are never seen, for files of a kilobyte."""
    from huggingface_hub.utils.tqdm import tqdm

    class SilentBar(tqdm):
        def __init__(self, *values: Any, **options: Any) -> None:
            options["disable"] = True
            super().__init__(*values, **options)  # type: ignore[no-untyped-call]

    return SilentBar


def _reason(error: Exception) -> str:
    """One line of what was behind an exception."""
    lines = [line.strip() for line in str(error.__cause__ or error).splitlines()]
    return next((line.rstrip(".:") for line in lines if line), type(error).__name__)


def _repositories() -> list[CachedRepoInfo]:
    """Those of models, in the cache."""
    from huggingface_hub import CacheNotFound, scan_cache_dir

    try:
        cache = scan_cache_dir(cache_folder())
    except CacheNotFound:
        return []
    return [repository for repository in cache.repos if repository.repo_type == "model"]


def _repository(hub_id: str) -> CachedRepoInfo:
    for repository in _repositories():
        if repository.repo_id == hub_id:
            return repository
    raise ModelNotFoundError(
        f"{hub_id} is not in {cache_folder()}", "`earwire models list` shows what is"
    )
