from pathlib import Path

from setuptools import find_packages, setup

CLIP = ["open_clip_torch>=2.30"]
NOTEBOOKS = ["ipykernel>=6", "pandas>=2.2", "matplotlib>=3.9"]
TEST = [
    *CLIP,
    *NOTEBOOKS,
    "nbclient>=0.10",
    "pytest>=8",
    "pytest-xdist>=3",
    "hypothesis>=6",
    "ruff>=0.9",
    "ir_measures>=0.3",
    "scikit-learn>=1.5",
    "peft>=0.17",
    "gymnasium>=1.0",
]

setup(
    name="mma_jax",
    version="0.1.0",
    description="Evidence-routing recommendation agents in JAX, and a trustworthy missing-modality benchmark",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mma_jax", "mma_jax.*"]),
    package_data={
        "mma_jax.assets": ["*.safetensors", "*.json", "l0_tiny/*"],
        "mma_jax.reports": ["*.js", "*.css", "*.html"],
    },
    python_requires=">=3.11",
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.5",
        "orbax-checkpoint>=0.12",
        "transformers>=5.0",
        "sentencepiece>=0.2",
        "safetensors>=0.5",
        "faiss-cpu>=1.10",
        "rank_bm25>=0.2.2",
        "grain>=0.2.10",
        "ml_collections>=1.0",
        "absl-py>=2.1",
        "jinja2>=3.1",
        "tensorboardX>=2.6",
        "numpy>=2.0",
        "scipy>=1.17",
        "pillow>=11",
        "tqdm>=4.66",
    ],
    extras_require={
        "clip": CLIP,
        "notebooks": NOTEBOOKS,
        "test": TEST,
        "gym": ["gymnasium>=1.0"],
        "gpu": ["jax[cuda12]"],
        "tpu": ["jax[tpu]"],
    },
    entry_points={"console_scripts": ["mma_jax=mma_jax.main:run"]},
)
