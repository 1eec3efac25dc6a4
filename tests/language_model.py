"""A language model of random weights with a tokenizer of its own, in a folder: what a Hub model is, without a Hub."""

from __future__ import annotations

from pathlib import Path

import torch

TEXT = "The capital of France is Paris. The capital of Italy is Rome. The opposite of hot is cold. A puppy is a dog."
N_CTX = 29


def make_language_model(folder: Path) -> Path:
    """Two layers of GPT-2 with width 16, and a byte-level BPE learnt from a few sentences (Paris, Rome and cold are one token each)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=331, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator([TEXT] * 7, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": N_CTX, "vocab_size": len(tokenizer)}
    # Weights ten times those of a fresh GPT-2: otherwise all words are alike.
    GPT2LMHeadModel(GPT2Config(**sizes, initializer_range=0.2, bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    return folder
