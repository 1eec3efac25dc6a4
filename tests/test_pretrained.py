"""Language models from a folder give transformers' own logits; what is not there is refused at once and in plain words."""

from __future__ import annotations

import json
import shutil
import time
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch

from tests.language_model import N_CTX, make_language_model
from workbench.errors import CheckpointError, UsageError
from workbench.pretrained import load_pretrained

INSTEAD = "pass a folder with config.json, tokenizer.json and model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_language_model(tmp_path_factory.mktemp("lm"))


@pytest.mark.filterwarnings("ignore")
def test_a_folder_gives_transformers_own_logits(folder):
    from transformers import GPT2LMHeadModel

    model = load_pretrained(folder)
    tokens = model.to_tokens("The capital of France is")
    with torch.no_grad():
        expected = GPT2LMHeadModel.from_pretrained(folder).eval()(tokens).logits
        found = model(tokens)
        other = model(tokens.flip(1))
    assert torch.allclose(found, expected, atol=1e-4) and not torch.allclose(other, expected, atol=1e-2)
    assert model.cfg.n_ctx == N_CTX and not model.training
    assert model.tokenizer.decode(tokens[0, 1:]) == "The capital of France is"


def test_hooks_of_attention_are_there(folder):
    _, cache = load_pretrained(str(folder)).run_with_cache(torch.tensor([[3, 1, 4, 1, 5]]))
    assert cache["blocks.1.attn.hook_pattern"].shape == (1, 2, 5, 5)


@pytest.mark.parametrize("name", ["gpt2", "nobody/no-such-model", "nobody/no-such-model@step1000", "runs/mistyped"])
def test_a_name_offline_is_one_plain_error_at_once(name, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(UsageError) as error:
        load_pretrained(name)
    assert str(error.value) == f"there is no folder {name}, and the Hugging Face Hub is switched off (HF_HUB_OFFLINE); {INSTEAD}"
    assert time.monotonic() - start < 5


class Hub:
    """Stands in for the Hub: answers the one question, and hands out a folder."""

    def __init__(self, monkeypatch, answer=None, folder=None):
        self.asked, self.answer, self.folder = [], answer, folder
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: SimpleNamespace(model_info=self.model_info))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def model_info(self, repository, revision, timeout):
        self.asked.append(("info", repository, revision))
        if self.answer is not None:
            raise self.answer

    def snapshot_download(self, repository, *, revision, allow_patterns, local_files_only):
        self.asked.append(("files", repository, revision, local_files_only))
        if self.folder is None:
            raise FileNotFoundError(repository)
        return str(self.folder)


def test_a_hub_that_cannot_be_reached(monkeypatch):
    hub = Hub(monkeypatch, answer=ConnectionError("no route"))
    with pytest.raises(UsageError, match="there is no folder a/b, and the Hugging Face Hub could not be reached; pass a folder"):
        load_pretrained("a/b")
    assert hub.asked == [("info", "a/b", None), ("files", "a/b", None, True)]


def test_what_the_hub_has_is_loaded_and_what_is_cached_needs_no_hub(monkeypatch, folder):
    hub = Hub(monkeypatch, folder=folder)
    assert load_pretrained("a/b@step3").cfg.n_layers == 2
    assert hub.asked == [("info", "a/b", "step3"), ("files", "a/b", "step3", False)]
    cached = Hub(monkeypatch, ConnectionError("no route"), folder)
    assert load_pretrained("a/b").cfg.n_layers == 2 and cached.asked[-1] == ("files", "a/b", None, True)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "the Hugging Face Hub knows no such model; pass a folder"),
        ("RevisionNotFoundError", "the model a/b has no revision 'step3' on the Hugging Face Hub"),
        ("GatedRepoError", "the model a/b asks for a login"),
    ],
)
def test_what_the_hub_answers_is_said(monkeypatch, error, message):
    kind = getattr(huggingface_hub.errors, error)
    Hub(monkeypatch, answer=kind.__new__(kind))
    with pytest.raises(UsageError, match=message):
        load_pretrained("a/b@step3")


def test_a_download_that_breaks_off(monkeypatch):
    Hub(monkeypatch)
    with pytest.raises(UsageError, match=r"the Hugging Face Hub did not deliver it \(FileNotFoundError\)"):
        load_pretrained("a/b")


def test_folders_that_are_no_language_models(folder, tmp_path):
    with pytest.raises(UsageError, match=r"is no language model: it has no config.json; pass a folder with"):
        load_pretrained(tmp_path)
    copy = shutil.copytree(folder, tmp_path / "lm")
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded as a language model: "):
        load_pretrained(copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match="has no weights as safetensors, and other files are not opened"):
        load_pretrained(copy)
    with pytest.raises(UsageError, match="is neither a folder nor the name of a model"):
        load_pretrained(folder / "config.json")


def test_an_architecture_that_the_bridge_does_not_know(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "lm")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "nobodys", "architectures": ["Nobody"]}))
    with pytest.raises(CheckpointError, match=r"cannot be loaded as a language model: .*nobodys"):
        load_pretrained(copy)
