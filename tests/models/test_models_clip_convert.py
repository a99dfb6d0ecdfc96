"""Our CLIP against the two public implementations, on random weights written in their own formats."""

import dataclasses
import json

import numpy as np
import pytest
from flax import nnx
from PIL import Image
from safetensors.numpy import load_file, save_file

from mma_jax.models import clip, clip_convert, tensors
from mma_jax.types import InputError

RNG = np.random.default_rng(0)
TOLERANCE = 1e-4


def pictures(count, size):
    return [Image.fromarray(RNG.integers(0, 256, (size + 9 * i, size + 40, 3), np.uint8)) for i in range(count)]


def tokens_ending_early(count, length, vocab_size):
    """Random ids; the end token (the highest id) at a random place, followed by padding."""
    tokens = RNG.integers(1, vocab_size - 1, (count, length)).astype(np.int32)
    for row, end in zip(tokens, RNG.integers(2, length, count), strict=True):
        row[end], row[end + 1 :] = vocab_size - 1, 0
    return tokens


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def transformers_folder(tmp_path_factory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    shared = dict(num_hidden_layers=2, num_attention_heads=2, hidden_act="quick_gelu")
    config = transformers.CLIPConfig(
        vision_config=dict(image_size=32, patch_size=8, hidden_size=32, intermediate_size=48, **shared),
        text_config=dict(
            vocab_size=99, max_position_embeddings=12, hidden_size=24, intermediate_size=40, eos_token_id=98, **shared
        ),
        projection_dim=16,
    )
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms start at 0 and 1
    folder = tmp_path_factory.mktemp("transformers")
    model.save_pretrained(folder)
    return model, folder


def test_transformers_format(transformers_folder):
    import torch

    reference, folder = transformers_folder
    model, config = clip_convert.load(folder)
    images = np.stack([clip.normalize(clip.pixels(picture, config), config) for picture in pictures(3, 32)])
    tokens = tokens_ending_early(4, 12, 99)
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        features = reference.vision_model(pixel_values=pixels).pooler_output
        image = reference.visual_projection(features).numpy()
        features = reference.text_model(input_ids=torch.from_numpy(tokens).long()).pooler_output
        text = reference.text_projection(features).numpy()
    np.testing.assert_allclose(model.encode_image(images), unit(image), atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_text(tokens), unit(text), atol=TOLERANCE)
    assert float(model.logit_scale[...]) == pytest.approx(reference.logit_scale.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": 32, "resample": 3, "do_center_crop": True}, "shortest"),  # OpenAI's files
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}, "shortest"),
        ({"size": {"height": 32, "width": 32}, "do_center_crop": False}, "squash"),
        ({"size": {"height": 32, "width": 32}, "resample": 2}, "resample is 2, only 3"),
        ({"size": 32, "do_center_crop": False}, "size is 32, and a model of 32 needs"),
        ({"size": {"shortest_edge": 40}}, "size is .'shortest_edge': 40., and a model of 32 needs"),
    ],
)
def test_how_transformers_prepares_pictures_is_kept_or_refused(transformers_folder, tmp_path, values, expected):
    for file in transformers_folder[1].iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.4, 0.3]} | values))
    if expected in clip.RESIZE_MODES:
        _, config = clip_convert.load(tmp_path)
        assert config.resize_mode == expected and config.mean == (0.5, 0.4, 0.3)
        return
    with pytest.raises(InputError, match=expected):
        clip_convert.load(tmp_path)


@pytest.mark.parametrize(("quick_gelu", "resize_mode"), [(True, None), (False, "squash")])
def test_open_clip_format(tmp_path, quick_gelu, resize_mode):
    torch = pytest.importorskip("torch")
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model_config = dict(
        embed_dim=16,
        quick_gelu=quick_gelu,
        vision_cfg=dict(image_size=32, patch_size=8, width=32, layers=2, head_width=16),
        text_cfg=dict(context_length=12, vocab_size=99, width=24, heads=2, layers=2),
    )
    reference = open_clip.CLIP(**model_config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    preprocess = {"resize_mode": resize_mode} if resize_mode else {}
    values = {"model_cfg": model_config, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    arrays = {name: value.numpy() for name, value in reference.state_dict().items()}
    save_file(arrays, tmp_path / "open_clip_model.safetensors")
    model, config = clip_convert.load(tmp_path)

    transform = open_clip.image_transform(32, is_train=False, mean=config.mean, std=config.std, **preprocess)
    given = pictures(3, 64)
    images = np.stack([clip.normalize(clip.pixels(picture, config), config) for picture in given])
    theirs = torch.stack([transform(picture) for picture in given])
    np.testing.assert_allclose(images, theirs.numpy().transpose(0, 2, 3, 1), atol=1e-6)
    tokens = tokens_ending_early(4, 12, 99)
    with torch.no_grad():
        image = reference.encode_image(theirs, normalize=True).numpy()
        text = reference.encode_text(torch.from_numpy(tokens).long(), normalize=True).numpy()
    np.testing.assert_allclose(model.encode_image(images), image, atol=TOLERANCE)
    np.testing.assert_allclose(model.encode_text(tokens), text, atol=TOLERANCE)


def write_as_open_clip(folder, config, model):
    """Our parameters under open_clip's names, so that refusals can be tested without torch."""
    table = clip_convert._open_clip_table(config)
    inverse = {"same": lambda x: x, "linear": lambda x: x.T, "conv": lambda x: x.transpose(3, 2, 0, 1)}
    arrays = {
        table[name][0][0]: np.array(inverse[table[name][1]](np.asarray(leaf[...])), order="C")
        for name, leaf in tensors.parameters(model).items()
    }
    save_file(arrays, folder / "open_clip_model.safetensors")
    model_config = dict(
        embed_dim=config.embed_dim,
        quick_gelu=True,
        vision_cfg=dict(image_size=config.image_size, patch_size=config.patch_size, width=64, layers=4, head_width=32),
        text_cfg=dict(context_length=10, vocab_size=32, width=64, heads=2, layers=2),
    )
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_config}))
    return folder / "open_clip_model.safetensors"


def test_round_trip_and_refusals(tmp_path):
    model = clip.Clip(clip.TINY, nnx.Rngs(0))
    path = write_as_open_clip(tmp_path, clip.TINY, model)
    loaded, config = clip_convert.load(tmp_path)
    assert config == clip.TINY
    images = RNG.random((2, 48, 48, 3), np.float32)
    np.testing.assert_allclose(loaded.encode_image(images), model.encode_image(images), atol=1e-6)

    arrays = load_file(path)
    for change, message in (
        ({"visual.ln_pre.weight": None}, r"1 tensors are missing, first visual\.ln_pre\.weight"),
        ({"visual.extra": np.zeros(3, np.float32)}, r"1 unexpected tensors, first visual\.extra"),
        ({"visual.proj": np.zeros((64, 63), np.float32)}, r"visual\.proj has shape \(64, 63\)"),
    ):
        save_file({name: value for name, value in (arrays | change).items() if value is not None}, path)
        with pytest.raises(InputError, match=message):
            clip_convert.load(tmp_path)
    path.write_bytes(b"\x80\x04 a pickle, not safetensors")
    with pytest.raises(InputError, match="not a readable safetensors file"):
        clip_convert.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="no such file"):
        clip_convert.load(tmp_path)


def test_buffers_are_ignored(tmp_path):
    path = write_as_open_clip(tmp_path, clip.TINY, clip.Clip(clip.TINY, nnx.Rngs(0)))
    save_file(load_file(path) | {"attn_mask": np.zeros((2, 2), np.float32)}, path)
    clip_convert.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("config.json", {"model_type": "siglip"}, "expected 'clip'"),
        ("config.json", {"model_type": "clip", "vision_config": {}, "text_config": {"hidden_act": "relu"}}, "relu"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"timm_model_name": "x"}}}, "timm_model_name"),
        ("open_clip_config.json", {"preprocess_cfg": {}}, "no model_cfg"),
        ("open_clip_config.json", [], "expected a JSON object"),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"resize_mode": "longest"}}, "known: .*squash"),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"interpolation": "bilinear"}}, "only 'bicubic'"),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": {"mean": [0.5]}}, "mean .* three numbers"),
        ("open_clip_config.json", {"model_cfg": {}, "preprocess_cfg": None}, "not the configuration of a CLIP"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"layers": [3, 4, 6, 3]}}}, r"vision_layers is \[3, 4"),
        ("open_clip_config.json", {"model_cfg": {"vision_cfg": {"head_width": 0}}}, "ZeroDivisionError"),
        ("open_clip_config.json", {"model_cfg": {"text_cfg": None}}, "not the configuration of a CLIP"),
        ("config.json", {"model_type": "clip", "vision_config": None}, "not the configuration of a CLIP"),
        ("config.json", {"model_type": "clip", "vision_config": {"patch_size": 0}}, "patch_size is 0"),
        ("config.json", {"model_type": "clip", "vision_config": {"patch_size": 448}}, "larger than the image"),
        ("config.json", {"model_type": "clip", "vision_config": {"num_attention_heads": 7}}, "number of heads"),
        ("config.json", {"model_type": "clip", "text_config": {"vocab_size": 99}}, "end token is not in"),
    ],
)
def test_foreign_configurations_are_refused(tmp_path, name, values, message):
    (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        clip_convert.load(tmp_path)


def test_folder_without_a_model_or_tokenizer(tmp_path):
    with pytest.raises(InputError, match="give a CLIP folder"):
        clip_convert.load(tmp_path)
    with pytest.raises(InputError, match="no CLIP tokenizer here"):
        clip_convert.tokenizer(tmp_path, clip.TINY)


def test_tokenizer_of_the_folder(tmp_path):
    """A byte-pair vocabulary of two merges, small enough to check by hand."""
    symbols = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({symbol: row for row, symbol in enumerate(symbols)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    config = dataclasses.replace(clip.TINY, vocab_size=7, eot_token=6, context_length=5)
    tokens = clip_convert.tokenizer(tmp_path, config)(["ab b", "a", "a b a b a b"])
    assert tokens.dtype == np.int32
    assert tokens[:, :4].tolist() == [[5, 4, 3, 6], [5, 2, 6, 6], [5, 2, 3, 2]]
    assert (tokens == 6).any(1).all()


def test_own_format_round_trip(tmp_path):
    model = clip.Clip(clip.TINY, nnx.Rngs(1))
    config = dataclasses.replace(clip.TINY, mean=(0.5, 0.4, 0.3))
    clip_convert.save_own(tmp_path / "small", model, config, {"words": ["red"]})
    loaded, found, notes = clip_convert.load_own(tmp_path / "small")
    assert found == config and notes == {"words": ["red"]}
    images = RNG.random((2, 48, 48, 3), np.float32)
    np.testing.assert_allclose(loaded.encode_image(images), model.encode_image(images), atol=5e-3)
    (tmp_path / "small.json").write_text("{}")
    with pytest.raises(InputError, match="not the configuration of a CLIP"):
        clip_convert.load_own(tmp_path / "small")
