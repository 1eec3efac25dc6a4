"""Other people's language models, through TransformerLens's TransformerBridge.

A name on the Hugging Face Hub is turned into a local folder first, so that there is one way to load. Weights are safetensors only,
and no code that comes with a model is run.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

CONFIG = "config.json"
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model")
"""what is fetched of a repository"""
INSTEAD = "pass a folder with config.json, tokenizer.json and model.safetensors"
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
PATIENCE = 10.0
"""seconds until the Hub counts as out of reach"""


def load_pretrained(name_or_folder: str | Path, device: str = "cpu") -> TransformerBridge:
    """A language model with its tokenizer, with weights and logits as transformers has them, in evaluation mode.

    `name_or_folder` is a folder with config.json, a tokenizer and model.safetensors, or the name of a model on the Hugging Face Hub
    (gpt2, EleutherAI/pythia-70m, or with a revision EleutherAI/pythia-70m@step1000). Raises UsageError for a name that is not
    there or cannot be reached and for a folder without these files, CheckpointError for files that cannot be read.
    """
    folder = Path(name_or_folder)
    if not folder.is_dir():
        folder = _fetched(str(name_or_folder))
    return _loaded(folder, str(name_or_folder), device)


def _fetched(name: str) -> Path:
    """The local folder of a model on the Hub: from the cache where it is there, else downloaded."""
    if not HUB_NAME.fullmatch(name) or Path(name).exists():
        raise UsageError(f"{name} is neither a folder nor the name of a model on the Hugging Face Hub; {INSTEAD}")

    from huggingface_hub import HfApi, constants, errors, snapshot_download

    repository, _, revision = name.partition("@")
    failed = "is switched off (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else "could not be reached"
    reachable = not constants.HF_HUB_OFFLINE
    if reachable:
        try:
            # One short question first: downloads ask again and again, for minutes, where there is no network.
            HfApi().model_info(repository, revision=revision or None, timeout=PATIENCE)
        except errors.RevisionNotFoundError as error:
            raise UsageError(f"the model {repository} has no revision {revision!r} on the Hugging Face Hub") from error
        except errors.GatedRepoError as error:
            raise UsageError(f"the model {repository} asks for a login to the Hugging Face Hub; {INSTEAD}") from error
        except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
            raise UsageError(f"there is no folder {name}, and the Hugging Face Hub knows no such model; {INSTEAD}") from error
        except Exception:  # which library asks, and with it what it raises without a network, differs between versions of the Hub's
            reachable = False
    try:
        place = snapshot_download(repository, revision=revision or None, allow_patterns=list(WANTED), local_files_only=not reachable)
    except Exception as error:
        failed = f"did not deliver it ({type(error).__name__})" if reachable else failed
        raise UsageError(f"there is no folder {name}, and the Hugging Face Hub {failed}; {INSTEAD}") from error
    return Path(place)


def _loaded(folder: Path, name: str, device: str) -> TransformerBridge:
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{name} is no language model: it has no {CONFIG}; {INSTEAD}")
    if not any(folder.glob("*.safetensors")):
        raise UsageError(f"{name} has no weights as safetensors, and other files are not opened; {INSTEAD}")

    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with warnings.catch_warnings(action="ignore"):
            tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            # TransformerBridge alone would look for pickled weights too; it takes a model and a tokenizer that are there already.
            weights: Any = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, attn_implementation="eager", **local)
            weights = weights.to(device)
            return TransformerBridge.boot_transformers(str(folder), hf_model=weights, tokenizer=tokenizer, device=device).eval()
    # Each of these libraries has its own errors for files that are not what they should be.
    except Exception as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(f"{name} cannot be loaded as a language model: {said[0][:200]}") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
