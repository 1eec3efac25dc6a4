"""How the frozen classic models in this folder were made: run once, with transformer-lens 3.9.0 (HookedTransformer was
removed in 4.0). Nothing imports this file; it stays so that the files can be made again.

    python tests/model/golden/make_golden.py FOLDER

Each file holds `state/<name>` (the state dict, unchanged, buffers too), `tokens`, `logits`, and `cache/<name>`; the
metadata hold the configuration, the order of the cache and the version.
"""

import json
import sys
from pathlib import Path

import torch
import transformer_lens
from safetensors.torch import save_file

SIZES = {"n_layers": 2, "d_model": 6, "n_heads": 2, "d_head": 3, "d_vocab": 7, "n_ctx": 5, "seed": 17}
MODELS = {
    "ln_mlp": {"d_mlp": 11, "act_fn": "gelu_new", "normalization_type": "LN"},
    "lnpre_attn_only": {"attn_only": True, "normalization_type": "LNPre"},
    "rotary": {
        "d_mlp": 11,
        "act_fn": "silu",
        "normalization_type": "RMS",
        "positional_embedding_type": "rotary",
        "d_head": 4,
        "rotary_dim": 4,
        "n_layers": 1,
    },
    "parallel": {"d_mlp": 11, "act_fn": "relu", "normalization_type": "LN", "parallel_attn_mlp": True, "n_layers": 1},
}


def make(name: str, fields: dict, folder: Path) -> None:
    model = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**(SIZES | fields)))
    generator = torch.Generator().manual_seed(23)
    with torch.no_grad():
        # Biases and norms start at zero and one, which would hide a swapped or forgotten one.
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        tokens = torch.randint(7, (3, 5), generator=generator)
        logits, cache = model.run_with_cache(tokens)
    tensors = {f"state/{key}": value for key, value in model.state_dict().items()}
    tensors |= {f"cache/{key}": value for key, value in cache.items()}
    tensors |= {"tokens": tokens, "logits": logits}
    metadata = {"transformer_lens": "3.9.0", "fields": json.dumps(SIZES | fields), "cache": json.dumps(list(cache.keys()))}
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, folder / f"{name}.safetensors", metadata)


if __name__ == "__main__":
    for model_name, model_fields in MODELS.items():
        make(model_name, model_fields, Path(sys.argv[1]))
