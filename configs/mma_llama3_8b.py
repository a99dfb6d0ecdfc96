"""The MMA paper's own numbers: Llama-3-8B-Instruct, LoRA, PPO of 500 iterations (§3.3, §4.1, Table 8).

    python -m mma_jax.main --config=configs/mma_llama3_8b.py --workdir=runs/mma_8b --config.model.path=FOLDER

FOLDER is the Hugging Face folder of the checkpoint. The dataset is the generated world unless you say otherwise, for
example --config.data.source=atomic --config.data.root=DATA --config.data.name=amazon-baby
--config.graph.source=interactions.

--dry_run prints data, token budgets, parameters and memory without FOLDER. No checkpoint of the model was at hand; its
shape with random weights ran on one H100 (`benchmarks/accelerator.py`): 13.0 ms a step of 64 rows, 24,200 tokens/s of
prompts, 3.5 s for the gradient of 16 x 2,048 tokens. Frozen weights have 8 bits, as the paper's. On 16 devices
(--config.mesh.fsdp=16) each needs 3.4 GiB to sample 64 rows of 2,048 tokens, 3.9 for their prompts and 6.0 for PPO's
gradient of 16 rows, by the compiler's account for CPU devices, which widens weights.

B = 100 and a context of 2,048 tokens leave a full score map but next to nothing to read in summaries and answers (see
the token budget); --config.env.context=8192 is what the other files use. The paper's learning rate is given as 1e-5 in
§4.1 and garbled in Table 8.
"""

from mma_jax.config import base


def get_config():
    config = base()
    config.methods = "scripted,agents"
    config.seeds = "0,1,2,3,4"
    config.images.encoder = "tiny"
    config.images.vocabulary = "world"
    config.graph.source = "copurchases"
    config.graph.decay = 1.0
    config.pool.size = 100
    config.env.turns = 8
    config.env.context = 2048
    config.env.count = "model"
    config.model.path = "Meta-Llama-3-8B-Instruct"
    config.model.dtype = "bfloat16"
    config.model.int8 = True
    config.model.lora_rank = 16
    config.model.lora_alpha = 32.0
    config.model.lora_targets = "q_proj,v_proj"
    config.model.value_hidden = 256
    config.sampler.slots = "2048"
    config.sampler.max_new = 512
    config.sft.lr = 1e-4
    config.sft.remat = True
    config.ppo.iterations = 500
    config.ppo.prompts = 64
    config.ppo.samples = 1
    config.ppo.ratio = "turn"  # Eq. 6
    config.ppo.baseline = "value"
    config.ppo.clip = 0.2
    config.ppo.lam = 0.95
    config.ppo.lr = 1e-5
    config.ppo.temperature = 0.2
    config.ppo.remat = True
    config.ppo.micro_batch = 16  # one on each of 16 devices
    config.sampler.lanes = 2  # the environment steps for one half of the rows while the device works for the other
    return config
