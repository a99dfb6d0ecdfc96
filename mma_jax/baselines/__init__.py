"""The classical recommenders of the papers, one file each; `registry.BASELINES` names them all."""
