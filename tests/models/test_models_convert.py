"""Our Llama against transformers' own, on random checkpoints that it writes and that it reads."""

import contextlib
import json
import pathlib
import random
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from hostile_fixture import damaged, reads_or_refuses
from peer import BASE, SCALED, SHAPES, reference
from safetensors.numpy import load_file, save_file

from mma_jax.models import convert, llama, lora
from mma_jax.types import InputError

TOKENS = np.random.default_rng(0).integers(0, 53, (2, 90)).astype(np.int32)  # longer than `original_...` above


def logits_of(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS).long()).logits.float().numpy()


def logits(model):
    graphdef, state = nnx.split(model)

    @jax.jit
    def apply(state):
        merged = nnx.merge(graphdef, state)
        return merged.logits(merged(TOKENS))

    return np.asarray(apply(state))


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@contextlib.contextmanager
def edited(folder, name="model.safetensors"):
    """The tensors of a file as a dict; what becomes of it is written back."""
    arrays = load_file(folder / name)
    yield arrays
    save_file(arrays, folder / name)


@pytest.fixture
def folder(tmp_path):
    reference(num_hidden_layers=1).save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_transformers(shape, tmp_path):
    theirs = reference(**SHAPES[shape])
    theirs.save_pretrained(tmp_path)
    expected = logits_of(theirs)
    assert expected.std() > 0.5  # or closeness would say little
    np.testing.assert_allclose(logits(convert.load_llama(tmp_path)), expected, atol=1e-4)


def test_shards(tmp_path):
    theirs = reference()
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2 and not (tmp_path / "model.safetensors").exists()
    np.testing.assert_allclose(logits(convert.load_llama(tmp_path)), logits_of(theirs), atol=1e-4)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_checkpoints(kind, folder):
    reference(num_hidden_layers=1).to(getattr(torch, kind)).save_pretrained(folder)
    theirs = transformers.LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert {x.dtype.name for x in load_file(folder / "model.safetensors").values()} == {kind}
    expected = logits_of(theirs)
    np.testing.assert_allclose(logits(convert.load_llama(folder)), expected, atol=1e-4)
    small = convert.load_llama(folder, jnp.bfloat16, jnp.bfloat16)
    found = small.layers[0].mlp.up_proj.kernel[...]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(small, nnx.Param))} == {"bfloat16"}
    stored = theirs.model.layers[0].mlp.up_proj.weight.detach().to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(np.asarray(found, np.float32), stored.T)


def test_config_in_both_spellings(folder):
    path = folder / "config.json"
    expected = llama.LlamaConfig(
        vocab_size=53,
        width=32,
        layers=1,
        heads=4,
        kv_heads=2,
        head_dim=8,
        hidden=48,
        rope_theta=1e3,
        rope_scaling=llama.RopeScaling(8.0, 1.0, 4.0, 64),
        norm_epsilon=1e-5,
    )
    edit_json(path, rope_parameters=SCALED)
    assert convert.read_config(folder) == expected
    older = {key: value for key, value in SCALED.items() if key != "rope_theta"}
    edit_json(path, rope_parameters=None, rope_theta=1e3, rope_scaling=older)
    assert convert.read_config(folder) == expected


def test_silent_config_means_what_transformers_means(folder):
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    silent = {key: BASE[key] for key in sizes}
    (folder / "config.json").write_text(json.dumps(silent | {"model_type": "llama", "rope_scaling": None}))
    found, theirs = convert.read_config(folder), transformers.LlamaConfig(**silent)
    assert (found.kv_heads, found.head_dim) == (theirs.num_key_value_heads, theirs.head_dim) == (4, 8)
    assert (found.norm_epsilon, found.tied) == (theirs.rms_norm_eps, theirs.tie_word_embeddings)
    assert found.rope_theta == theirs.rope_parameters["rope_theta"] and found.rope_scaling is None


@pytest.mark.parametrize("shape", ["grouped", "tied", "scaled"])
def test_transformers_reads_what_we_save(shape, tmp_path):
    theirs = reference(**SHAPES[shape])
    theirs.save_pretrained(tmp_path / "theirs")
    ours = convert.load_llama(tmp_path / "theirs")
    convert.save_llama(ours, tmp_path / "new" / "ours")
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new/ours", output_loading_info=True)
    assert not any(report.values())  # nothing missing, unexpected or of another shape
    np.testing.assert_array_equal(logits_of(back.eval()), logits_of(theirs))
    assert back.generation_config.eos_token_id is None  # not the 2 that it makes up where the JSON is silent
    assert sorted(path.name for path in (tmp_path / "new/ours").iterdir()) == ["config.json", "model.safetensors"]
    again = convert.load_llama(tmp_path / "new/ours")
    assert again.config == ours.config
    for one, two in zip(*(jax.tree.leaves(nnx.state(x, nnx.Param)) for x in (again, ours)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_saved_dtype(folder):
    model = convert.load_llama(folder)
    for kind in ("bfloat16", "float16"):
        convert.save_llama(model, folder / kind, dtype=jnp.dtype(kind))
        assert json.loads((folder / kind / "config.json").read_text())["dtype"] == kind
        assert {x.dtype.name for x in load_file(folder / kind / "model.safetensors").values()} == {kind}
        back = transformers.AutoModelForCausalLM.from_pretrained(folder / kind)
        assert back.dtype == getattr(torch, kind)


def test_adapters_are_merged_before_saving(folder):
    model = convert.load_llama(folder)
    lora.add_lora(model, 2, 4.0, ("q_proj",), nnx.Rngs(0))
    adapter = model.layers[0].self_attn.q_proj
    adapter.b.set_value(jnp.ones_like(adapter.b[...]))
    expected = logits(model)
    with pytest.raises(ValueError, match="merge_lora"):
        convert.save_llama(model, folder / "out")
    lora.merge_lora(model)
    convert.save_llama(model, folder / "out")
    back = transformers.AutoModelForCausalLM.from_pretrained(folder / "out").eval()
    np.testing.assert_allclose(logits_of(back), expected, atol=1e-4)


def test_buffers_and_a_redundant_head_are_ignored(folder):
    with edited(folder) as arrays:
        arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    expected = logits(convert.load_llama(folder))
    edit_json(folder / "config.json", tie_word_embeddings=True)
    with edited(folder) as arrays:
        arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"] + 1.0
    tied = convert.load_llama(folder)
    assert not hasattr(tied, "lm_head") and np.abs(logits(tied) - expected).max() > 0.1


CONFIGS = {
    "another architecture": (dict(model_type="mistral"), "model_type is 'mistral', expected 'llama'"),
    "attention bias": (dict(attention_bias=True), "attention_bias is True"),
    "mlp bias": (dict(mlp_bias=True), "mlp_bias is True"),
    "activation": (dict(hidden_act="gelu"), "hidden_act is 'gelu'"),
    "yarn": (dict(rope_parameters={"rope_type": "yarn", "factor": 4.0}), "rope scaling 'yarn'"),
    "dynamic, old spelling": (dict(rope_scaling={"type": "dynamic", "factor": 2.0}), "rope scaling 'dynamic'"),
    "half a scaling": (dict(rope_parameters={"rope_type": "llama3", "factor": 8.0}), "low_freq_factor"),
    "scaling upside down": (dict(rope_parameters=SCALED | {"low_freq_factor": 4.0}), "low_freq_factor"),
    "rope is text": (dict(rope_parameters="llama3"), "not the configuration of a Llama"),
    "no size": (dict(hidden_size=None), "hidden_size"),
    "size is text": (dict(hidden_size="wide"), "not the configuration of a Llama"),
    "size is infinite": (dict(vocab_size=float("inf")), "not the configuration of a Llama"),
    "no heads": (dict(num_attention_heads=0, head_dim=None), "not the configuration of a Llama"),
    "groups that do not divide": (dict(num_key_value_heads=3), "no Llama has these sizes"),
    "odd heads": (dict(head_dim=7), "no Llama has these sizes"),
    "negative": (dict(num_hidden_layers=-1), "num_hidden_layers is -1"),
    "too deep": (dict(num_hidden_layers=10**6), "no Llama has these sizes"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_refused_configurations(case, folder):
    changes, message = CONFIGS[case]
    edit_json(folder / "config.json", **changes)
    refuses(folder, message, where="config.json")


def refuses(folder, message, where):
    with pytest.raises(InputError) as caught:
        convert.load_llama(folder)
    assert message in str(caught.value) and where in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text, message", [("{", "cannot read"), ("[1]", "expected a JSON object"), ("\xff", "cannot")])
def test_refused_json(text, message, folder):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refuses(folder, message, where="config.json")


def test_refused_folders(folder):
    refuses(folder / "nowhere", "no config.json here", where="nowhere")
    (folder / "model.safetensors").unlink()
    refuses(folder, "no such file", where="model.safetensors")
    (folder / "config.json").unlink()
    refuses(folder, "no config.json here", where=str(folder))


def lie(path: pathlib.Path, change):
    """Rewrites the header of a safetensors file, the bytes behind it as they were."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def test_refused_files(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for broken in (b"", whole[:5], whole[:100], whole[:-1], whole + b"\0", b"\xff" * 8 + whole[8:]):
        path.write_bytes(broken)
        refuses(folder, "not a readable safetensors file", where="model.safetensors")

    def longer(header):
        header["model.norm.weight"]["shape"] = [64]

    def elsewhere(header):
        header["model.norm.weight"]["data_offsets"] = [10**9, 10**9 + 128]

    for change in (longer, elsewhere):
        path.write_bytes(whole)
        lie(path, change)
        refuses(folder, "not a readable safetensors file", where="model.safetensors")


def test_refused_tensors(folder):
    good = load_file(folder / "model.safetensors")
    norm, down = "model.norm.weight", "model.layers.0.mlp.down_proj.weight"
    for arrays, message in (
        ({key: value for key, value in good.items() if key != norm}, f"1 tensors are missing, first {norm}"),
        (good | {"model.layers.1.mlp.down_proj.weight": good[down]}, "1 unexpected tensors, first model.layers.1"),
        (good | {"model.layers.0.self_attn.q_proj.bias": good[norm]}, "unexpected tensors"),
        (good | {down: np.ascontiguousarray(good[down].T)}, f"{down} has shape [48, 32], its config.json asks for"),
        (good | {norm: good[norm][:, None]}, f"{norm} has shape [32, 1], its config.json asks for [32]"),
        (good | {norm: good[norm].astype(np.int8)}, f"{norm} is I8"),
    ):
        save_file(arrays, folder / "model.safetensors")
        refuses(folder, message, where=str(folder))
    save_file({key: value for key, value in good.items() if key != "lm_head.weight"}, folder / "model.safetensors")
    refuses(folder, "first lm_head.weight", where=str(folder))


def test_refused_shards(tmp_path):
    reference(num_hidden_layers=1).save_pretrained(tmp_path, max_shard_size="20KB")
    index, shards = tmp_path / "model.safetensors.index.json", sorted(tmp_path.glob("model-*.safetensors"))
    content = shards[1].read_bytes()
    shards[1].write_bytes(content[:-1])
    refuses(tmp_path, "not a readable safetensors file", where=shards[1].name)
    shards[1].unlink()
    refuses(tmp_path, "no such file", where=shards[1].name)
    shards[1].write_bytes(content)
    listed = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={name: shard for name, shard in listed.items() if shard != shards[1].name})
    refuses(tmp_path, "missing", where=str(tmp_path))
    for broken in ({}, [], None, {"model.norm.weight": 3}):
        edit_json(index, weight_map=broken)
        refuses(tmp_path, "missing" if broken == {} else "no weight_map", where=str(tmp_path))


def test_damaged_weights(folder):
    path, rng, read = folder / "model.safetensors", random.Random(0), 0
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(150):
        path.write_bytes(damaged(whole, rng, 8 + header))
        read += reads_or_refuses(convert.load_llama, folder)
    for size in (0, 1, header - 1, header + 1, 2**20, 2**31, 2**40, 2**63, 2**64 - 1):
        path.write_bytes(size.to_bytes(8, "little") + whole[8:])
        assert not reads_or_refuses(convert.load_llama, folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 * 2**10, f"{grown} KiB for files of {len(whole)} bytes"
    assert read < 30


@pytest.mark.parametrize("shape, dtype", [([10**12], "F32"), ([2**62, 4], "F32"), ([-32], "F32"), ([32], "F\n64")])
def test_headers_that_lie_allocate_nothing(shape, dtype, folder):
    lie(folder / "model.safetensors", lambda header: header["model.norm.weight"].update(shape=shape, dtype=dtype))
    assert not reads_or_refuses(convert.load_llama, folder)


def test_names_cannot_write_to_the_terminal(folder):
    arrays = load_file(folder / "model.safetensors")
    save_file(arrays | {"a\n\x1b[2Jmma_jax: done": arrays["model.norm.weight"]}, folder / "model.safetensors")
    with pytest.raises(InputError, match="1 unexpected tensors") as caught:
        convert.load_llama(folder)
    assert str(caught.value).isprintable()


SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
SIZES = (*SIZES, "head_dim", "vocab_size")
LIES = (0, -1, 2**24 + 1, 2**63, 10**30, 8.5, 8.0, "8", True, [8], {}, float("nan"), float("inf"), "\n")


@pytest.mark.parametrize("key", SIZES)
def test_sizes_that_lie(key, folder):
    true = json.loads((folder / "config.json").read_text())[key]
    for value in LIES:
        edit_json(folder / "config.json", **{key: value})
        assert not reads_or_refuses(convert.read_config, folder), value
    for value in (true + 1, 2 * true, 4_000):  # a possible size, but not that of these weights
        edit_json(folder / "config.json", **{key: value})
        assert not reads_or_refuses(convert.load_llama, folder), value


@pytest.mark.parametrize("key", ["rope_theta", "factor", "high_freq_factor", "original_max_position_embeddings"])
def test_rotations_that_lie(key, folder):
    edit_json(folder / "config.json", rope_parameters=SCALED)
    convert.read_config(folder)
    for value in (0, -1.0, float("nan"), float("inf"), "1", True, None, []):
        edit_json(folder / "config.json", rope_parameters=SCALED | {key: value})
        assert not reads_or_refuses(convert.read_config, folder), value


@pytest.mark.parametrize(
    "changes",
    [
        dict(hidden_size=33, head_dim=None),
        dict(rms_norm_eps=-1e-5),
        dict(rms_norm_eps=float("nan")),
        dict(tie_word_embeddings="false"),
        dict(tie_word_embeddings=1),
        dict(model_type=["llama"]),
        dict(hidden_act="silu\n"),
    ],
)
def test_other_settings_that_lie(changes, folder):
    edit_json(folder / "config.json", **changes)
    assert not reads_or_refuses(convert.read_config, folder)


def test_json_without_end(folder):
    for text in ("[" * 100_000, '{"a":' * 100_000, '{"vocab_size": ' + "1" * 100_000 + "}"):
        (folder / "config.json").write_text(text)
        assert not reads_or_refuses(convert.read_config, folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/dev/zero", "a/../model.safetensors", "a\0"])
def test_an_index_names_files_of_its_folder_only(shard, folder):
    shutil.copy(folder / "model.safetensors", folder.parent)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    with pytest.raises(InputError, match="no file of this folder"):
        convert.load_llama(folder)
