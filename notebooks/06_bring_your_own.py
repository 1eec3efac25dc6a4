# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Bring your own
#
# Three ways in: a task of your own, weights that you trained elsewhere, and a language model.
#
# A minute on two cores. `WORKBENCH_FAST=1` runs everything in seconds, with numbers that mean nothing. Nothing is downloaded.

# %%
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from pace import RUNS, pace

from workbench import HookedTransformer, ModelConfig, Run, RunConfig, TrainConfig, analyze, presets, train
from workbench.config import TaskConfig
from workbench.figures.formation import accuracy_curves
from workbench.figures.patterns import pattern_panels
from workbench.tasks import make_task, register
from workbench.tasks.base import Batch

# %% [markdown]
# ## A task of your own
#
# A *cipher*: in each sequence every letter has its own secret code, and letter and code alternate. What a letter's code is, only the
# context can tell, once it has been shown.
#
# A task is a frozen dataclass and a class with five methods. The one that matters is `sample`. It says for every position whether the
# context has shown the answer (`answered`) and whether only learnt statistics can tell it (`unanswerable`); all metrics follow from these.


# %%
@dataclass(frozen=True, kw_only=True)
class CipherConfig(TaskConfig):
    name: Literal["cipher"] = "cipher"
    d_vocab: int = 8  # the first half are letters, the second half codes
    seq_len: int = 31


class Cipher:
    def __init__(self, config: CipherConfig) -> None:
        self.config = config

    def sample(self, batch_size: int, rng: np.random.Generator, split: str = "train") -> Batch:
        letters, pairs = self.config.d_vocab // 2, (self.config.seq_len + 1) // 2
        code = letters + rng.permuted(np.tile(np.arange(letters), (batch_size, 1)), axis=1)
        text = rng.integers(letters, size=(batch_size, pairs))
        tokens = np.stack([text, np.take_along_axis(code, text, axis=1)], axis=2).reshape(batch_size, -1)
        tokens = torch.from_numpy(tokens[:, : self.config.seq_len + 1])
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        is_letter = inputs < letters
        seen = (inputs[:, :, None] == inputs[:, None, :]).tril(-1).any(dim=2)
        return Batch(inputs.contiguous(), targets.contiguous(), answered=is_letter & seen, unanswerable=~is_letter)

    def describe(self) -> str:
        return f"Letters and their codes in turn, {self.config.seq_len} tokens; the code of each letter is drawn anew for each sequence."

    def to_strings(self, tokens) -> list[str]:
        letters = self.config.d_vocab // 2
        return [chr(ord("a") + token) if token < letters else f"{token - letters}" for token in tokens]

    def fingerprint(self) -> str:
        return f"cipher {self.config.d_vocab} {self.config.seq_len}"

    def references(self) -> dict[str, float]:
        return {"bigram_loss": float(np.log(self.config.d_vocab // 2))}  # the next letter is anybody's guess


register("cipher", f"{__name__}:Cipher", CipherConfig)
task = make_task(CipherConfig())
" ".join(task.to_strings(task.sample(1, np.random.default_rng(0)).tokens[0].tolist()))

# %% [markdown]
# (Here the class lives in the notebook. In a module of your own, `register("cipher", "my_module:Cipher", CipherConfig)`, and a run that was
# trained on it can be loaded wherever that call has been made.)
#
# Trained and analysed like any other. For hundreds of steps the model only guesses one of the four codes (25% right); then accuracy rises
# to one, and the summary names an induction head of layer 1. (With more letters each is seen less often, and it takes far longer.)

# %%
config = RunConfig(
    task=CipherConfig(),
    model=ModelConfig(d_vocab=8, n_ctx=31, stream="value"),
    train=TrainConfig(steps=pace(800, 30), checkpoint_every=pace(40, 15)),
)
mine = train(config, RUNS / "cipher", resume=True, progress=False)
mine.analyze("formation", sequences=pace(256, 16))
mine

# %%
accuracy_curves(mine.table("formation"))

# %% [markdown]
# A head of layer 0 should note the token before (L0H3), one of layer 1 should look, from a letter, at the codes that followed it earlier
# (L1H2). See that their rows take turns: at every other position there is nothing to note, or to find.

# %%
pattern_panels(mine.attention())

# %% [markdown]
# A task need not be registered to ask one model about it: `analyze` also takes a model and a task, and gives the table.

# %%
analyze(mine.model(), task, only="in_context_accuracy", sequences=pace(256, 16))[["metric", "value", "ci_low", "ci_high", "n"]]

# %% [markdown]
# ## Weights that you trained elsewhere
#
# A state dict with the names of TransformerLens's classic HookedTransformer is taken as it is. Sizes are read off the tensors; what they
# cannot tell, you say (the norm, the activation). Here the weights are those of a model from scratch, as if your own loop had made them. As
# a run without a task it is analysed on repeats of random tokens. An untrained model should match no prefixes: scores near chance.
# (From a terminal: `workbench import model.safetensors --out runs/mine --model.normalization-type LN`.)

# %%
weights = HookedTransformer(presets["trigger-bigram"].model).state_dict()  # put yours here
print(*list(weights)[:6], "...", sep="\n")
imported = HookedTransformer.from_state_dict(weights, None, normalization_type="LN", act_fn="relu")
folder = RUNS / "imported"
other = Run.load(folder) if Run.is_run(folder) else Run.create(folder, RunConfig(model=imported.config))
if not other.steps:
    other.save(0, imported)
other.analyze("formation", sequences=pace(256, 16)).query("metric == 'prefix_matching_score'")[["task", "layer", "head", "value"]].head(8)

# %% [markdown]
# To analyse your own training while it runs, save checkpoints from your loop: `run = Run.create(path, RunConfig(model=config))`, then
# `run.save(step, model, optimizer)` and `run.log({"step": step, "loss": loss})`.
#
# ## A language model
#
# `load_pretrained` takes a folder, or a name on the Hugging Face Hub (gpt2, or with a revision EleutherAI/pythia-70m@step1000) and gives
# TransformerLens's TransformerBridge. To stay offline, this cell writes a tiny GPT-2 with random weights and a tokenizer of its own.

# %%
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from workbench.analysis.vocabulary import TokenizerWords
from workbench.analysis.word_prompts import Prompt, read, top_answers
from workbench.pretrained import load_pretrained

disable_progress_bar()
text = "The capital of France is Paris. The capital of Italy is Rome."
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
bpe.train_from_iterator([text] * 7, trainer)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
tokenizer.save_pretrained(RUNS / "tiny-gpt2")
torch.manual_seed(0)
sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 29, "vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 0}
GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2)).save_pretrained(RUNS / "tiny-gpt2")

language_model = load_pretrained(RUNS / "tiny-gpt2")  # or load_pretrained("gpt2")
logits, cache = language_model.run_with_cache(language_model.to_tokens("The capital of France is"))
cache["blocks.1.attn.hook_pattern"].shape  # batch, head, position, position

# %% [markdown]
# Asked in words: after a false statement, is the context ahead or what was learnt? These weights are random, so the margin is noise; with a
# real model the same two lines ask a real question. (From a terminal: `workbench hijack gpt2`.)

# %%
words = TokenizerWords(language_model)
prompt = "The capital of France is Rome. The capital of France is"
read(language_model, [Prompt(prompt, context="Rome", prior="Paris")], words), top_answers(language_model, prompt, words, count=3)

# %% [markdown]
# ## Questions
#
# Each takes a line or two; what we found is in [answers.md](answers.md), 6.
#
# 1. When does layer 1 begin to look at codes? `pattern_panels(mine.attention(step=320))`, and other steps of `mine.steps`.
# 2. Does the cipher need the wire? Train `config.override(model={"stream": "none"})` in another folder, as `plain`, and
#    `compare([plain, mine])`.
# 3. What does an error look like? `config.override(model={"n_head": 4})`, or `mine.analyze("formaton")`.
