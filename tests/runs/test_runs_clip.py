import dataclasses
import json

import numpy as np

from mma_jax.data import render
from mma_jax.runs import clip


def test_captions_are_true_exactly_where_they_should_be():
    rng = np.random.default_rng(0)
    values = rng.integers([8, 8, 4, 4], size=(50, 4))
    captions, truth = clip.all_captions(values, 4)
    assert len(captions) == len(set(captions)) == 9 * 9 * 5 * 5 - 1
    assert (truth.sum(1) == 15).all()
    names = list(render.ATTRIBUTES)
    for row in (0, 1):
        words = {name: render.ATTRIBUTES[name][value] for name, value in zip(names, values[row], strict=True)}
        assert truth[row, captions.index(render.caption(words))]
        true_words = " ".join(caption for caption, holds in zip(captions, truth[row], strict=True) if holds).split()
        assert set(true_words) == {"a", "on", "thing", *words.values()}


def test_single_word_captions_are_those_of_the_tags():
    captions, truth = clip.all_captions(np.zeros((1, 4), int), 1)
    assert sorted(captions) == sorted(clip.word_captions()) and truth.sum() == 4
    assert len(clip.VOCABULARY) == len(clip.word_captions()) == 24
    assert all(word in caption.split() for word, caption in zip(clip.VOCABULARY, clip.word_captions(), strict=True))


def test_shipped_tiny_clip_names_fresh_renders():
    """Aims: 95% per attribute, all four words among the five tags in 85% of images."""
    encoder = clip.load_tiny()
    found = clip.accuracy(encoder, *clip.draw(300, np.random.default_rng(99)))
    assert min(found[name] for name in render.ATTRIBUTES) >= 0.95
    assert found["all_four_in_top5"] >= 0.85
    sizes = [path.stat().st_size for path in clip.ASSET.parent.glob("tiny_clip.*")]
    assert len(sizes) == 2 and sum(sizes) <= 1.5e6


def test_whole_descriptions_are_told_apart():
    """The right caption among all 1,024 full ones."""
    images, values = clip.draw(100, np.random.default_rng(5))
    captions, truth = clip.all_captions(values, 4)
    full = [row for row, caption in enumerate(captions) if "thing" not in caption and len(caption.split()) == 6]
    assert len(full) == 1024
    encoder = clip.load_tiny()
    scores = encoder.pixels(images) @ encoder.texts([captions[row] for row in full]).T
    assert truth[np.arange(100), np.array(full)[scores.argmax(1)]].mean() > 0.5


def test_make_writes_a_model_that_loads(tmp_path, monkeypatch):
    monkeypatch.setattr(clip.clip, "TINY", dataclasses.replace(clip.clip.TINY, vision_layers=1, text_layers=1))
    settings = clip.TinyClipConfig(train_images=40, test_images=20, word_steps=2, caption_steps=2, batch_size=8)
    notes = clip.make(settings, tmp_path / "tiny")
    assert json.loads((tmp_path / "tiny.json").read_text())["settings"]["word_steps"] == 2
    images, values = clip.draw(20, np.random.default_rng(0))
    assert set(clip.accuracy(clip.load_tiny(tmp_path / "tiny"), images, values)) == set(notes["accuracy"])


def test_run_plans_writes_and_resumes(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(clip, "make", lambda settings, path: made.append(path) or {"accuracy": {"color": 1.0}})
    clip.run(None, tmp_path, dry_run=True)
    assert made == [] and not list(tmp_path.iterdir())
    for _ in range(2):
        clip.run(None, tmp_path)
    assert made == [clip.ASSET] and json.loads((tmp_path / "clip.json").read_text())["accuracy"]["color"] == 1.0
    assert "already made" in capsys.readouterr().out
