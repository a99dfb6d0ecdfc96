"""Reads and writes CLIP weights: transformers' and open_clip's public safetensors folders, and our own files.

Every tensor that the configuration asks for must be there with the right shape, and nothing else may be.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import safe_open

from mma_jax.models import clip, tensors
from mma_jax.types import InputError

_BUFFERS = ("position_ids", "attn_mask")  # constants that some checkpoints carry along

Table = dict[str, tuple[tuple[str, ...], str]]
"""Our parameter's name -> (the tensors it is made of, joined along their first axis; how to lay it out)."""

_LAYOUT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "same": lambda x: x,
    "linear": lambda x: x.T,  # [out, in] -> [in, out]
    "conv": lambda x: x.transpose(2, 3, 1, 0),  # OIHW -> HWIO
}


def load(folder: str | os.PathLike) -> tuple[clip.Clip, clip.ClipConfig]:
    """Reads a folder in the transformers format (config.json, model.safetensors) or the open_clip format
    (open_clip_config.json, open_clip_model.safetensors); the latter if both are there.

    Raises:
      InputError: no such folder or files, another architecture, a missing or unexpected tensor, a wrong shape, pictures
        to be prepared in another way than `clip.pixels` has.
    """
    folder = pathlib.Path(folder)
    if (path := folder / "open_clip_config.json").is_file():
        with _configuration(path):
            config = _open_clip_config(path)
        return _fill(config, _open_clip_table(config), folder / "open_clip_model.safetensors"), config
    if (path := folder / "config.json").is_file():
        with _configuration(path):
            config = _transformers_config(path)
        return _fill(config, _transformers_table(config), folder / "model.safetensors"), config
    raise InputError(f"{folder}: no config.json (transformers) or open_clip_config.json here; give a CLIP folder")


def tokenizer(folder: str | os.PathLike, config: clip.ClipConfig) -> Callable[[Sequence[str]], np.ndarray]:
    """CLIP's own byte-pair tokenizer from the folder's tokenizer files; strings -> int32 [n, context_length].

    Raises:
      InputError: the folder has no tokenizer.
    """
    from transformers import CLIPTokenizer  # here, because importing it takes seconds

    folder = pathlib.Path(folder)
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise InputError(
            f"{folder}: no CLIP tokenizer here; put tokenizer.json, or vocab.json and merges.txt, beside it"
        )
    try:
        tokenize = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # its parsers raise bare Exceptions
        raise InputError(f"{folder}: cannot read the CLIP tokenizer ({' '.join(str(error).split())})") from None
    return lambda texts: np.asarray(
        tokenize(list(texts), padding="max_length", truncation=True, max_length=config.context_length)["input_ids"],
        np.int32,
    )


def save_own(path: str | os.PathLike, model: clip.Clip, config: clip.ClipConfig, notes: dict) -> None:
    """Writes PATH.safetensors in float16 and PATH.json with {"config": ..., **notes}, each atomically."""
    path = pathlib.Path(path)
    arrays = {name: np.asarray(leaf[...]).astype(np.float16) for name, leaf in tensors.parameters(model).items()}
    tensors.save_file(arrays, path.with_suffix(".safetensors"))
    tensors.save_json({"config": dataclasses.asdict(config), **notes}, path.with_suffix(".json"))


def load_own(path: str | os.PathLike) -> tuple[clip.Clip, clip.ClipConfig, dict]:
    """Reads what `save_own` wrote: the model in float32, its configuration, the notes.

    Raises:
      InputError: a file is missing or is not what `save_own` writes.
    """
    path = pathlib.Path(path)
    notes = tensors.read_json(path.with_suffix(".json"))
    with _configuration(path.with_suffix(".json")):
        values = notes.pop("config")
        config = clip.ClipConfig(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
    table = {name: ((name,), "same") for name in tensors.parameters(_skeleton(config))}
    return _fill(config, table, path.with_suffix(".safetensors")), config, notes


@contextlib.contextmanager
def _configuration(path: pathlib.Path) -> Iterator[None]:
    """Around what makes a configuration from the values of a file: if they do not fit one, that is the file's error."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        problem = tensors.line(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}: not the configuration of a CLIP ({problem})") from None


def _open_clip_config(path: pathlib.Path) -> clip.ClipConfig:
    values = tensors.read_json(path)
    model = values.get("model_cfg")
    if not isinstance(model, dict):
        raise InputError(f"{path}: no model_cfg; give a folder that open_clip wrote")
    model = _OPEN_CLIP_DEFAULTS | model
    vision = _OPEN_CLIP_VISION_DEFAULTS | model["vision_cfg"]
    text = _OPEN_CLIP_TEXT_DEFAULTS | model["text_cfg"]
    for given, known in (
        (model, {*_OPEN_CLIP_DEFAULTS, "init_logit_scale"}),
        (vision, {*_OPEN_CLIP_VISION_DEFAULTS, "patch_dropout"}),
        (text, {*_OPEN_CLIP_TEXT_DEFAULTS}),
    ):
        if foreign := sorted(key for key, value in given.items() if value and key not in known):
            raise InputError(f"{path}: only plain ViT CLIPs are read, not one with {', '.join(foreign)}")
    preprocess = {"interpolation": "bicubic", "resize_mode": "shortest"} | values.get("preprocess_cfg", {})
    if preprocess["interpolation"] != "bicubic":
        raise InputError(f"{path}: interpolation is {preprocess['interpolation']!r}, only 'bicubic' can be done here")
    return clip.ClipConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        vision_width=vision["width"],
        vision_layers=vision["layers"],
        vision_heads=vision["width"] // vision["head_width"],
        vision_hidden=int(vision["width"] * vision["mlp_ratio"]),
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        text_hidden=int(text["width"] * text["mlp_ratio"]),
        context_length=text["context_length"],
        vocab_size=text["vocab_size"],
        eot_token=text["vocab_size"] - 1,
        embed_dim=model["embed_dim"],
        activation="quick_gelu" if model["quick_gelu"] else "gelu",
        resize_mode=preprocess["resize_mode"],
        **{name: tuple(preprocess[name]) for name in ("mean", "std") if name in preprocess},
    )


# What open_clip assumes where its JSON is silent.
_OPEN_CLIP_DEFAULTS = {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}, "quick_gelu": False}
_OPEN_CLIP_VISION_DEFAULTS = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "layers": 12,
    "head_width": 64,
    "mlp_ratio": 4.0,
}
_OPEN_CLIP_TEXT_DEFAULTS = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "heads": 8,
    "layers": 12,
    "mlp_ratio": 4.0,
}


def _transformers_config(path: pathlib.Path) -> clip.ClipConfig:
    values = tensors.read_json(path)
    if values.get("model_type") != "clip":
        raise InputError(f"{path}: model_type is {values.get('model_type')!r}, expected 'clip'")
    vision, text = values.get("vision_config", {}), values.get("text_config", {})
    found = {"embed_dim": values["projection_dim"]} if "projection_dim" in values else {}
    for source, names in ((vision, _TRANSFORMERS_VISION), (text, _TRANSFORMERS_TEXT)):
        found |= {ours: source[theirs] for theirs, ours in names.items() if theirs in source}
    config = clip.ClipConfig(**found)  # its defaults are transformers' own, which the JSON may leave out
    if config.eot_token == 2:  # early files say 2 and mean the highest id
        config = dataclasses.replace(config, eot_token=config.vocab_size - 1)
    preprocess = path.with_name("preprocessor_config.json")
    if not preprocess.is_file():
        return config
    values = tensors.read_json(preprocess)
    with _configuration(preprocess):
        pixels = {ours: tuple(values[theirs]) for theirs, ours in _TRANSFORMERS_PIXELS.items() if theirs in values}
        return dataclasses.replace(config, resize_mode=_resize_mode(values, config.image_size, preprocess), **pixels)


def _resize_mode(values: dict, size: int, path: pathlib.Path) -> str:
    """How a transformers CLIPImageProcessor makes a square of a picture. Raises InputError if not as `clip.pixels`."""
    if values.get("resample", _BICUBIC) != _BICUBIC:
        raise InputError(f"{path}: resample is {values['resample']}, only {_BICUBIC} (bicubic) can be done here")
    asked = values.get("size", size)
    if asked == {"height": size, "width": size}:
        return "squash"
    if asked in (size, {"shortest_edge": size}) and values.get("do_center_crop", True):
        return "shortest"
    raise InputError(f"{path}: size is {asked}, and a model of {size} needs that side, or a center crop after it")


_BICUBIC = 3  # PIL's number


_TRANSFORMERS_PIXELS = {"image_mean": "mean", "image_std": "std"}
_TRANSFORMERS_VISION = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "hidden_size": "vision_width",
    "num_hidden_layers": "vision_layers",
    "num_attention_heads": "vision_heads",
    "intermediate_size": "vision_hidden",
}
_TRANSFORMERS_TEXT = {
    "hidden_size": "text_width",
    "num_hidden_layers": "text_layers",
    "num_attention_heads": "text_heads",
    "intermediate_size": "text_hidden",
    "max_position_embeddings": "context_length",
    "vocab_size": "vocab_size",
    "eos_token_id": "eot_token",
    "hidden_act": "activation",
}


def _open_clip_table(config: clip.ClipConfig) -> Table:
    table: Table = {
        "logit_scale": (("logit_scale",), "same"),
        "image.patch.kernel": (("visual.conv1.weight",), "conv"),
        "image.class_token": (("visual.class_embedding",), "same"),
        "image.position": (("visual.positional_embedding",), "same"),
        "image.projection.kernel": (("visual.proj",), "same"),
        "text.token": (("token_embedding.weight",), "same"),
        "text.position": (("positional_embedding",), "same"),
        "text.projection.kernel": (("text_projection",), "same"),
        **_norm("image.norm_pre", "visual.ln_pre"),
        **_norm("image.norm_post", "visual.ln_post"),
        **_norm("text.norm_post", "ln_final"),
    }
    for tower, prefix, layers in (
        ("image", "visual.transformer", config.vision_layers),
        ("text", "transformer", config.text_layers),
    ):
        for layer in range(layers):
            ours, theirs = f"{tower}.blocks.{layer}", f"{prefix}.resblocks.{layer}"
            table |= _norm(f"{ours}.norm1", f"{theirs}.ln_1") | _norm(f"{ours}.norm2", f"{theirs}.ln_2")
            table[f"{ours}.qkv.kernel"] = ((f"{theirs}.attn.in_proj_weight",), "linear")
            table[f"{ours}.qkv.bias"] = ((f"{theirs}.attn.in_proj_bias",), "same")
            table |= _linear(f"{ours}.out", f"{theirs}.attn.out_proj")
            table |= _linear(f"{ours}.up", f"{theirs}.mlp.c_fc") | _linear(f"{ours}.down", f"{theirs}.mlp.c_proj")
    return table


def _transformers_table(config: clip.ClipConfig) -> Table:
    table: Table = {
        "logit_scale": (("logit_scale",), "same"),
        "image.patch.kernel": (("vision_model.embeddings.patch_embedding.weight",), "conv"),
        "image.class_token": (("vision_model.embeddings.class_embedding",), "same"),
        "image.position": (("vision_model.embeddings.position_embedding.weight",), "same"),
        "image.projection.kernel": (("visual_projection.weight",), "linear"),
        "text.token": (("text_model.embeddings.token_embedding.weight",), "same"),
        "text.position": (("text_model.embeddings.position_embedding.weight",), "same"),
        "text.projection.kernel": (("text_projection.weight",), "linear"),
        **_norm("image.norm_pre", "vision_model.pre_layrnorm"),  # spelled so in the public files
        **_norm("image.norm_post", "vision_model.post_layernorm"),
        **_norm("text.norm_post", "text_model.final_layer_norm"),
    }
    for tower, prefix, layers in (
        ("image", "vision_model", config.vision_layers),
        ("text", "text_model", config.text_layers),
    ):
        for layer in range(layers):
            ours, theirs = f"{tower}.blocks.{layer}", f"{prefix}.encoder.layers.{layer}"
            table |= _norm(f"{ours}.norm1", f"{theirs}.layer_norm1") | _norm(f"{ours}.norm2", f"{theirs}.layer_norm2")
            table |= _linear(f"{ours}.qkv", *(f"{theirs}.self_attn.{name}_proj" for name in "qkv"))
            table |= _linear(f"{ours}.out", f"{theirs}.self_attn.out_proj")
            table |= _linear(f"{ours}.up", f"{theirs}.mlp.fc1") | _linear(f"{ours}.down", f"{theirs}.mlp.fc2")
    return table


def _norm(ours: str, theirs: str) -> Table:
    return {f"{ours}.scale": ((f"{theirs}.weight",), "same"), f"{ours}.bias": ((f"{theirs}.bias",), "same")}


def _linear(ours: str, *theirs: str) -> Table:
    return {
        f"{ours}.kernel": (tuple(f"{name}.weight" for name in theirs), "linear"),
        f"{ours}.bias": (tuple(f"{name}.bias" for name in theirs), "same"),
    }


def _skeleton(config: clip.ClipConfig) -> clip.Clip:
    """The model's shapes, without its memory."""
    return nnx.eval_shape(lambda: clip.Clip(config, nnx.Rngs(0)))


def _fill(config: clip.ClipConfig, table: Table, path: pathlib.Path) -> clip.Clip:
    model = _skeleton(config)
    with tensors.open_file(path) as file:
        wanted = [source for sources, _ in table.values() for source in sources]
        tensors.check_names(wanted, file.keys(), path, ignored=_BUFFERS)
        for name, leaf in tensors.parameters(model).items():
            leaf.set_value(_read(file, table[name], leaf.shape, path))
    return model


def _read(file: safe_open, recipe: tuple[tuple[str, ...], str], shape: tuple, path: pathlib.Path) -> jnp.ndarray:
    sources, layout = recipe
    parts = [file.get_tensor(source).astype(np.float32) for source in sources]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if joined.ndim != len(shape) or _LAYOUT[layout](joined).shape != shape:
        raise InputError(f"{path}: {sources[0]} has shape {parts[0].shape}, which does not fit the {shape} needed")
    return jnp.asarray(_LAYOUT[layout](joined))
