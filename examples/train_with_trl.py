"""A QAA adapter with plain PEFT and TRL: nothing of Ketune but the config.

    python examples/train_with_trl.py --model EleutherAI/gpt-neo-125m --data my_prompts.jsonl

The data has columns `prompt` and `completion`. Without arguments it runs on the bundled model and generated data.
"""

import argparse

import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import ketune
from ketune import QAAConfig
from ketune.assets.names import BUNDLED_MODEL, resolve_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--model", default=BUNDLED_MODEL)
parser.add_argument("--data", help="a JSON lines file")
parser.add_argument("--steps", type=int, default=40)
parser.add_argument("--out", default="runs/example-trl")
options = parser.parse_args()

place = resolve_model(options.model)
tokenizer = AutoTokenizer.from_pretrained(place)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(place), QAAConfig(task_type="CAUSAL_LM"))
model.print_trainable_parameters()
if options.data:
    data = load_dataset("json", data_files=options.data, split="train")
else:
    from ketune.finetuning import load_task

    data = load_task("builtin:inns").train.select_columns(["prompt", "completion"])
config = SFTConfig(
    options.out,
    max_steps=options.steps,
    per_device_train_batch_size=8,
    learning_rate=0.1,
    bf16=torch.cuda.is_available(),
    report_to=[],
)
SFTTrainer(model, args=config, train_dataset=data, processing_class=tokenizer).train()

model.save_pretrained(f"{options.out}/adapter")
print(type(ketune.load(f"{options.out}/adapter")).__name__, f"loads again from {options.out}/adapter")
