"""Train a sparse low-rank adapter, see which ranks survive, and leave a plain LoRA that PEFT alone loads.

python examples/sora_to_lora.py --steps 200
"""

import argparse

import ketune
from ketune.adapters import effective_ranks

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--steps", type=int, default=60)
parser.add_argument("--out", default="runs/example-sora")
options = parser.parse_args()

config = ketune.SoraConfig(task_type="CAUSAL_LM", r=8, sparse_lambda=0.3, threshold="base_lr")
params = ketune.TrainingParams(max_steps=options.steps, batch_size=8, learning_rate=3e-2)
result = ketune.finetune("builtin:base", "builtin:inns", config, output_dir=options.out, params=params, resume=False)

for name, rank in effective_ranks(result.model).items():
    print(f"{name.removeprefix('base_model.model.'):36} rank {rank} of {config.r}")
lora = ketune.prune(result.model)
lora.save_pretrained(f"{options.out}/lora")
print(f"a plain LoRA adapter lies in {options.out}/lora")
