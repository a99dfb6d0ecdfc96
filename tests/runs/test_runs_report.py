"""The command that writes the report; what is in it is tested with the reports."""

import pytest

from mma_jax.config import base
from mma_jax.runs import report
from mma_jax.types import InputError


def test_the_bootstrap_is_the_config_s(tmp_path, monkeypatch):
    config, asked = base(), {}
    config.eval.bootstrap = 17
    (tmp_path / "audit.json").write_text("[]")
    monkeypatch.setattr(report, "write_report", lambda directory, **more: asked.update(more))
    report.run(config, tmp_path, dry_run=False)
    assert asked["n_resamples"] == 17 and asked["command"].startswith("python -m mma_jax.main")


def test_a_folder_without_results_is_told(tmp_path):
    with pytest.raises(InputError, match="has no results to report"):
        report.run(base(), tmp_path, dry_run=False)
