"""Reads and writes Llama checkpoints as Hugging Face folders: config.json and safetensors, whole or in shards."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open
from tqdm import tqdm

from mma_jax.models import quantize, tensors
from mma_jax.models.llama import Llama, LlamaConfig, RopeScaling
from mma_jax.models.sharding import HERE, Placement
from mma_jax.types import InputError

_DTYPES = ("F32", "BF16", "F16")
_BUFFER = "rotary_emb.inv_freq"  # a constant that early checkpoints carry along
_PIECE = 1 << 18  # weights made int8 at a time
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"  # all weights; or where those of the shards are
_HEAD = "lm_head.weight"  # some checkpoints store it although the embedding is the head


L0_TINY = pathlib.Path(__file__).parent.parent / "assets" / "l0_tiny"
"""The embedded base model, made by `--config.run=pretrain`; what an empty config.model.path means."""


def load_llama(
    folder: str | os.PathLike,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
    *,
    int8: bool = False,
    placement: Placement = HERE,
) -> Llama:
    """Reads a folder that `transformers` wrote for `LlamaForCausalLM`.

    Names, shapes and dtypes are all checked before the first tensor is read; then one file at a time is open, and one
    tensor at a time goes from there to its devices in its final dtype. Beside the result, the host holds what has been
    read of that file, which the system may take back, and little more than the tensor in its final dtype.

    Args:
        folder: with config.json and model.safetensors, or model.safetensors.index.json and the shards it names.
        dtype: of activations.
        param_dtype: of weights.
        int8: keep projections, embedding and head as `quantize` would make them; norms stay `param_dtype`.
        placement: where parameters go.

    Raises:
        InputError: no such folder or file, not a Llama or a variant we lack, a broken file, a missing or unexpected
            tensor, a wrong shape, weights that are not float32, bfloat16 or float16.
    """
    folder = pathlib.Path(folder)
    config = read_config(folder)
    files = weight_files(folder)
    found = {name: header for path in files for name, header in tensors.headers(path).items()}
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype))
    if int8:
        quantize.quantize(model)
    leaves = tensors.parameters(model)
    wanted = {_public_name(ours): ours for ours in leaves if not ours.endswith(quantize.SCALES)}
    tensors.check_names(wanted, found, folder, ignored=(_BUFFER, _HEAD) if config.tied else (_BUFFER,))
    for name, ours in wanted.items():
        _check(name, leaves[ours].shape[::-1] if _is_projection(name) else leaves[ours].shape, found[name])
    progress = tqdm(total=len(wanted), desc=f"reading {folder.name}", leave=False, delay=2)
    for path in files:
        with tensors.open_file(path) as file:
            for name in [name for name in wanted if found[name].path == path]:
                for ours, array in _converted(name, wanted[name], file, leaves[wanted[name]].dtype):
                    leaves[ours].set_value(placement.parameter(ours, array))
                progress.update()
    progress.close()
    return model


def _converted(name: str, ours: str, file: safe_open, dtype) -> Iterator[tuple[str, np.ndarray]]:
    """Our parameters, by path, that a public tensor makes: itself in `dtype`, and if that is int8 its scales."""
    if dtype == jnp.int8:
        array, scales = _rows_to_int8(file.get_slice(name))
        yield quantize.scales_of(ours), scales
    else:
        array = file.get_tensor(name)
    yield ours, np.ascontiguousarray(array.T if _is_projection(name) else array, dtype)


def _rows_to_int8(tensor) -> tuple[np.ndarray, np.ndarray]:
    """`quantize.to_int8` of a tensor on disk, [outputs, inputs] or [V, E], a few rows at a time: floats take four times
    the memory, several times over."""
    rows, columns = tensor.get_shape()
    array, scales = np.empty((rows, columns), np.int8), np.empty(rows, np.float32)
    step = max(1, _PIECE // columns)
    for start in range(0, rows, step):
        piece = slice(start, min(start + step, rows))  # it does not clip
        array[piece], scales[piece] = quantize.to_int8(tensor[piece], axis=1)
    return array, scales


def save_llama(model: Llama, folder: str | os.PathLike, dtype=None) -> None:
    """Writes config.json and model.safetensors, each atomically; transformers' `AutoModelForCausalLM` reads them.

    The JSON names no special tokens, since a `Llama` knows none; they belong to the tokenizer beside it.

    Args:
        model: without adapters; `lora.merge_lora` folds them in.
        folder: is created.
        dtype: of the stored weights; None keeps the model's.

    Raises:
        ValueError: the model has adapters.
    """
    if nnx.state(model, nnx.LoRAParam):
        raise ValueError("this Llama has adapters, which its public format lacks; call lora.merge_lora(model) first")
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for ours, leaf in tensors.parameters(model).items():
        name, array = _public_name(ours), np.asarray(leaf[...])
        array = array.T if _is_projection(name) else array
        arrays[name] = np.ascontiguousarray(array, dtype or array.dtype)  # because the writer ignores strides
    weights, text = folder / WHOLE, folder / "config.json"
    tensors.save_file(arrays, weights, {"format": "pt"})  # transformers asks for the note
    tensors.save_json(_to_public(model.config) | {"dtype": arrays["model.embed_tokens.weight"].dtype.name}, text)


def read_config(folder: str | os.PathLike) -> LlamaConfig:
    """Reads config.json, of transformers 5 (`rope_parameters`) or before (`rope_theta`, `rope_scaling`).

    Raises:
        InputError: it is missing or broken, of another architecture, of a Llama with biases, another activation or
            another kind of rope scaling than Llama 3's, or of sizes that no Llama has.
    """
    folder = pathlib.Path(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder}: no config.json here; give a Hugging Face folder of a Llama")
    values = tensors.read_json(path)
    if values.get("model_type") != "llama":
        raise InputError(f"{path}: model_type is {values.get('model_type')!r}, expected 'llama'")
    values = _DEFAULTS | {key: value for key, value in values.items() if value is not None}
    for key in ("attention_bias", "mlp_bias", "hidden_act"):
        if values[key] != _DEFAULTS[key]:
            raise InputError(f"{path}: {key} is {values[key]!r}; only Llamas with {_DEFAULTS[key]!r} are read")
    try:
        config = _from_public(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = tensors.line(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}: not the configuration of a Llama ({problem})") from None
    if config.heads % config.kv_heads or config.head_dim % 2 or config.layers > _DEEPEST:
        raise InputError(f"{path}: no Llama has these sizes, check them: {config}")
    if (scaling := config.rope_scaling) and not 0 < scaling.low_freq_factor < scaling.high_freq_factor:
        raise InputError(f"{path}: rope scaling needs 0 < low_freq_factor < high_freq_factor, not {scaling}")
    return config


# What transformers assumes where its JSON is silent.
_DEFAULTS = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
}
_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_dim",
    "intermediate_size": "hidden",
}


_LARGEST = 1 << 24
_DEEPEST = 1 << 10
"""Far beyond any Llama: larger sizes are a broken file's, and would fill the memory before a tensor proves it."""


def _from_public(values: dict) -> LlamaConfig:
    heads = _integer(values, "num_attention_heads")
    width, rest = divmod(_integer(values, "hidden_size"), heads)
    if rest and "head_dim" not in values:
        raise ValueError(f"hidden_size {values['hidden_size']} is no multiple of num_attention_heads {heads}")
    values = {"num_key_value_heads": heads, "head_dim": width} | values
    if not isinstance(values["tie_word_embeddings"], bool):
        raise ValueError(f"tie_word_embeddings is {values['tie_word_embeddings']!r}, expected true or false")
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    rope = {"rope_theta": values["rope_theta"]} | rope
    scaling, kind = None, rope.get("rope_type", rope.get("type", "default"))
    if kind == "llama3":
        rope = {"original_max_position_embeddings": values["max_position_embeddings"]} | rope
        scaling = RopeScaling(
            factor=_positive(rope, "factor"),
            low_freq_factor=_positive(rope, "low_freq_factor"),
            high_freq_factor=_positive(rope, "high_freq_factor"),
            original_length=_integer(rope, "original_max_position_embeddings"),
        )
    elif kind != "default":
        raise ValueError(f"rope scaling {kind!r}, only 'llama3' and 'default' are read")
    return LlamaConfig(
        **{ours: _integer(values, theirs) for theirs, ours in _SIZES.items()},
        rope_theta=_positive(rope, "rope_theta"),
        rope_scaling=scaling,
        norm_epsilon=_positive(values, "rms_norm_eps"),
        tied=values["tie_word_embeddings"],
    )


def _integer(values: dict, key: str) -> int:
    value = values[key]
    if type(value) is not int or not 0 < value <= _LARGEST:  # a bool is an int too
        raise ValueError(f"{key} is {value!r}, expected a whole number from 1 to {_LARGEST}")
    return value


def _positive(values: dict, key: str) -> float:
    value = values[key]
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(f"{key} is {value!r}, expected a positive number")
    return float(value)


def _to_public(config: LlamaConfig) -> dict:
    """The JSON in the spelling that transformers 4 and 5 both read."""
    scaling, longest = None, 8192  # Llama 3's context; rotations themselves know no longest
    if (ours := config.rope_scaling) is not None:
        longest = round(ours.factor * ours.original_length)
        scaling = {
            "rope_type": "llama3",
            "factor": ours.factor,
            "low_freq_factor": ours.low_freq_factor,
            "high_freq_factor": ours.high_freq_factor,
            "original_max_position_embeddings": ours.original_length,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": longest,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "tie_word_embeddings": config.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _public_name(ours: str) -> str:
    """Our modules carry the public names; only their leaves are called otherwise."""
    module = ours.rpartition(".")[0]
    return f"{module}.weight" if module == "lm_head" else f"model.{module}.weight"


def _is_projection(name: str) -> bool:
    """Public projections are [out, in], ours [in, out]; everything else is alike."""
    return name.endswith(("_proj.weight", _HEAD))


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files that hold a checkpoint's tensors: the whole, or its shards by name.

    Raises:
        InputError: an index that names no files, or files elsewhere.
    """
    whole, index = folder / WHOLE, folder / INDEX
    if whole.is_file() or not index.is_file():
        return [whole]
    shards = tensors.read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{index}: no weight_map from tensors to files; copy the folder again")
    if elsewhere := [shard for shard in shards.values() if pathlib.PurePath(shard).name != shard or "\0" in shard]:
        raise InputError(f"{index}: {elsewhere[0]!r} is no file of this folder; get the index from another source")
    return [folder / shard for shard in sorted(set(shards.values()))]


def _check(name: str, shape: tuple[int, ...], found: tensors.Header) -> None:
    if found.shape != tuple(shape):
        raise InputError(f"{found.path}: {name} has shape {list(found.shape)}, its config.json asks for {list(shape)}")
    if found.dtype not in _DTYPES:
        raise InputError(f"{found.path}: {name} is {found.dtype}; weights of {', '.join(_DTYPES)} are read")
