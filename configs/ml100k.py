"""MovieLens-100K with posters, plots and real timestamps: all three modalities, all seven families, B = 100.

    python -m mma_jax.main --config=configs/ml100k.py --workdir=runs/ml100k --config.data.root=DATA

DATA holds ml-100k/ with ml-100k.inter, ml-100k.item and images/. Liked means rated 4 or 5. Posters are encoded by a
tiny CLIP trained on the posters themselves in five folds, each image only by a model that did not see it.

Took 4:51 minutes and 2.2 GB on 2 cores, of which the posters are about one minute. Expect recall@100 of .23 (text), .07
(image), .63 (behaviour); OOMA NDCG@10 .116 for the first stage, .122 for Evidence-linear; LOMO .167 and .197.

Agents on L0-tiny, which reads generated words alone, gain nothing here: MMA-SFT (150 steps, --config.env.context=2048,
two tokens of summary) ranks as the first stage does, alpha = 1; notebooks/LOG.md has the run. Give them a Llama that
reads, with --config.model.path.
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.data.source = "atomic"
    config.data.name = "ml-100k"
    config.data.positive_rating = 4.0
    config.images.encoder = "kfold"
    config.images.vocabulary = "movie_genres"
    config.episodes.train, config.episodes.valid, config.episodes.test = 1000, 300, 600
    config.episodes.per_user = 5  # in any tenth of the calendar few of the 943 users are active, but they rate a lot
    return config
