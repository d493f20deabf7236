"""Pre-trains the small language model that Ketune carries, from public-domain novels and generated records.

Examples:
    # a short run, into a folder of its own
    python tools/pretrain_base.py --novels ../shared/data/english-novels --scratch /tmp/p --out /tmp/base --steps 500

    # until ten past seven in the evening, then write the assets; killed and started again, it goes on
    python tools/pretrain_base.py --novels ../shared/data/english-novels --scratch /tmp/pretrain --until 19:10

    # write the assets from the latest checkpoint without training further
    python tools/pretrain_base.py --novels ../shared/data/english-novels --scratch /tmp/pretrain --export-only

The learning rate rises, stays, and falls to zero over the last `--decay` of the steps or of the time. With `--steps` a
run is determined by its seed (on one machine and torch version); with `--until`, the fall follows the clock.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import time
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from ketune.assets import base_model_path
from pretraining_export import bits_per_character, export, load_tokenizer, write_card
from pretraining_text import HELD_OUT, encode, read_novels, record_documents, train_tokenizer

CONTEXT = 256
VOCAB_SIZE = 2048
RECORDS_PER_DOMAIN = 3000
MUON_LR, ADAMW_LR = 0.02, 0.004
WARMUP_STEPS = 100
# Parts of a batch. In so little text a model does not learn on its own how to copy a word from its context, which
# data-to-text needs most; so records have a fixed part, and in a part of the novels' windows a passage comes twice.
# That part shrinks when the learning rate falls, so that the model ends on text as people write it.
RECORD_PART = 6 / 32
PASTED_PART, PASTED_PART_AT_END = 4 / 32, 2 / 32


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--novels", type=Path, required=True, help="folder of the english-novels collection")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for encoded text, checkpoints and the log")
    parser.add_argument(
        "--out", type=Path, default=base_model_path(), help="where the assets go (default: the package)"
    )
    end = parser.add_mutually_exclusive_group(required=True)
    end.add_argument("--steps", type=int, help="number of steps")
    end.add_argument("--until", help="local time HH:MM at which the learning rate is to have reached zero")
    end.add_argument("--export-only", action="store_true", help="write the assets from the latest checkpoint")
    end.add_argument("--card-only", action="store_true", help="write the model card anew from training.json in --out")
    parser.add_argument("--decay", type=float, default=0.28, help="part of the run in which the learning rate falls")
    parser.add_argument("--batch", type=int, default=32, help=f"windows of {CONTEXT} tokens a step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint-minutes", type=float, default=4.0)
    parser.add_argument("--eval-steps", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="use torch.compile")
    args = parser.parse_args()
    if not 0 < args.decay <= 1:
        parser.error(f"--decay {args.decay}: must be above 0 and at most 1")
    return args


def prepare_text(
    novels: Path, scratch: Path, seed: int
) -> tuple[Tokenizer, tuple[Tensor, Tensor], dict[str, Tensor], dict[str, int]]:
    """Trains the tokenizer and encodes the text, once; later calls read what stands in `scratch`.

    Returns:
        The tokenizer, the training streams (n_tokens,) of novels and records, the held-out streams by novel, and their
        lengths in characters.
    """
    cache = scratch / "text.pt"
    if not cache.exists():
        texts = read_novels(novels)
        training = [text for name, text in texts.items() if name not in HELD_OUT]
        records = record_documents(RECORDS_PER_DOMAIN, seed)
        # Every fourth stretch of each novel: merges change little with more text, training time does.
        sample = (text[i : i + 20_000] for text in training for i in range(0, len(text), 80_000))
        tokenizer = train_tokenizer((*sample, *records[::8]), VOCAB_SIZE)
        held_out = {name: encode(tokenizer, [texts[name]]) for name in HELD_OUT}
        characters = {name: len(texts[name]) for name in HELD_OUT}
        novel_ids, record_ids = encode(tokenizer, training), encode(tokenizer, records)
        counts = {
            "novel_tokens": len(novel_ids),
            "novel_characters": sum(map(len, training)),
            "record_tokens": len(record_ids),
            "record_documents": len(records),
        }
        tokenizer.save(str(scratch / "tokenizer.json"))
        _save(
            {"train": torch.cat([novel_ids, record_ids]), "held_out": held_out, "characters": characters, **counts},
            cache,
        )
        print(f"text: {counts}", flush=True)
    text = torch.load(cache, weights_only=True)
    streams = text["train"].split([text["novel_tokens"], text["record_tokens"]])
    return Tokenizer.from_file(str(scratch / "tokenizer.json")), streams, text["held_out"], text["characters"]


def build_model(seed: int) -> LlamaForCausalLM:
    """Builds the untrained model; projections that write into the residual stream start at zero."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=160,
        intermediate_size=448,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
        use_cache=True,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)
    return model


def batch_at(stream: Tensor, step: int, batch: int, seed: int) -> Tensor:
    """The windows of one step, (batch, CONTEXT + 1): every epoch cuts the stream anew and visits each window once."""
    windows_per_epoch = (len(stream) - 2 * CONTEXT) // CONTEXT // batch * batch
    epoch, first = divmod(step * batch, windows_per_epoch)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    offset = int(torch.randint(CONTEXT, (), generator=generator))
    order = torch.randperm(windows_per_epoch, generator=generator)[first : first + batch]
    positions = order[:, None] * CONTEXT + offset + torch.arange(CONTEXT + 1)
    return stream[positions].long()


def paste_passages(windows: Tensor, n_windows: int, generator: torch.Generator) -> Tensor:
    """Repeats a passage of 24 to 112 tokens later in the window, at a random distance, in the first `n_windows`."""
    windows = windows.clone()
    half = windows.shape[1] // 2
    for row in windows[:n_windows]:
        length = int(torch.randint(24, 113, (), generator=generator))
        start = int(torch.randint(half - length, (), generator=generator))
        target = half + int(torch.randint(half - length, (), generator=generator))
        row[target : target + length] = row[start : start + length].clone()
    return windows


def mixed_batch(novels: Tensor, records: Tensor, step: int, batch: int, seed: int, pasted: float) -> Tensor:
    """The windows of one step, (batch, CONTEXT + 1): novels, a part `pasted` with a repetition, then records."""
    n_records, n_pasted = round(batch * RECORD_PART), round(batch * pasted)
    text = batch_at(novels, step, batch - n_records, seed)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    text = paste_passages(text, n_pasted, generator)
    return torch.cat([text, batch_at(records, step, n_records, seed)]) if n_records else text


class Schedule:
    """Learning-rate factor: linear warm-up, constant, linear fall to zero by step count or by the clock."""

    def __init__(self, steps: int | None, until: float | None, started: float, decay: float) -> None:
        self.steps, self.until, self.started, self.decay = steps, until, started, decay

    def left(self, step: int) -> float:
        """What part of the run is left, 1 to 0."""
        if self.steps is not None:
            return max(0.0, 1 - step / self.steps)
        assert self.until is not None
        return max(0.0, (self.until - time.time()) / (self.until - self.started))

    def factor(self, step: int) -> float:
        return min((step + 1) / WARMUP_STEPS, 1.0, self.left(step) / self.decay)


def train(args: argparse.Namespace) -> None:
    """Trains until the end asked for, then writes the assets."""
    tokenizer, (novels, records), held_out, _ = prepare_text(args.novels, args.scratch, args.seed)
    model = build_model(args.seed).to(args.device)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=MUON_LR, weight_decay=0.05, momentum=0.95),
        torch.optim.AdamW(others, lr=ADAMW_LR, betas=(0.9, 0.95), weight_decay=0.0),
    )
    path = args.scratch / "checkpoint.pt"
    progress = {"step": 0, "started": time.time(), "decay_step": -1}
    if path.exists():
        state = torch.load(path, weights_only=True, map_location=args.device)
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        progress |= state["progress"]
        print(f"goes on at step {progress['step']}", flush=True)
    until = None
    if args.until:
        clock = datetime.time.fromisoformat(args.until)
        until = datetime.datetime.combine(datetime.date.today(), clock).timestamp()
    schedule = Schedule(args.steps, until, progress["started"], args.decay)
    check = {name: ids[: CONTEXT * 32 + 1] for name, ids in held_out.items()}

    def save() -> None:
        states = [optimizer.state_dict() for optimizer in optimizers]
        _save({"model": model.state_dict(), "optimizers": states, "progress": progress, "batch": args.batch}, path)

    def loss_of(windows: Tensor) -> Tensor:
        hidden = model.model(input_ids=windows[:, :-1], use_cache=False).last_hidden_state
        logits = nn.functional.linear(hidden, model.lm_head.weight)
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())

    compiled = torch.compile(loss_of) if args.compile else loss_of
    last_save = mark = time.time()
    marked_step, running = progress["step"], 0.0
    while (left := schedule.left(progress["step"])) > 0:
        step = progress["step"]
        factor = schedule.factor(step)
        if left < args.decay and progress["decay_step"] < 0:
            progress["decay_step"] = step
        pasted = PASTED_PART if left >= args.decay else PASTED_PART_AT_END
        for optimizer, lr in zip(optimizers, (MUON_LR, ADAMW_LR)):
            optimizer.param_groups[0]["lr"] = lr * factor
        with torch.autocast(args.device, dtype=torch.bfloat16):
            loss = compiled(mixed_batch(novels, records, step, args.batch, args.seed, pasted).to(args.device))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running += loss.item()
        progress["step"] = step = step + 1
        if step % 25 == 0:
            now, n_steps = time.time(), step - marked_step
            speed = n_steps * args.batch * CONTEXT / (now - mark)
            clock = datetime.datetime.now().strftime("%H:%M:%S")
            print(f"{clock} step {step} loss {running / n_steps:.4f} lr x{factor:.3f} {speed:.0f} tokens/s", flush=True)
            mark, marked_step, running = now, step, 0.0
        if step % args.eval_steps == 0:
            bits = bits_per_character(model, check, None, tokenizer)
            print(f"step {step} held out: {sum(bits.values()) / len(bits):.4f} bits per character", flush=True)
        if time.time() - last_save > 60 * args.checkpoint_minutes:
            save()
            last_save = time.time()
    save()
    export_checkpoint(args)


def export_checkpoint(args: argparse.Namespace) -> None:
    """Writes the assets from the latest checkpoint, with the bits per character of each held-out novel."""
    tokenizer, _, held_out, characters = prepare_text(args.novels, args.scratch, args.seed)
    path = args.scratch / "checkpoint.pt"
    if not path.exists():
        raise SystemExit(f"{path}: no checkpoint yet; train first (--steps or --until)")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = build_model(args.seed)
    model.load_state_dict(state["model"])
    text = torch.load(args.scratch / "text.pt", weights_only=True)
    record = {
        **{key: value for key, value in text.items() if isinstance(value, int)},
        "steps": state["progress"]["step"],
        "decay_step": state["progress"]["decay_step"],
        "batch": state["batch"],
        "context": CONTEXT,
        "seed": args.seed,
        "tokens_seen": state["progress"]["step"] * state["batch"] * CONTEXT,
        "hours": round((path.stat().st_mtime - state["progress"]["started"]) / 3600, 2),
        "threads": torch.get_num_threads(),
        "device": _device_name(args.device),
        "date": datetime.date.today().isoformat(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "notes": [],  # what the run did that its arguments do not tell; filled in by hand, then --card-only
        "finished": not args.export_only,
    }
    if args.export_only:  # a look at an unfinished run: the first pages will do
        held_out = {name: ids[: CONTEXT * 32] for name, ids in held_out.items()}
        characters = None
    export(model, load_tokenizer(tokenizer, CONTEXT), tokenizer, args.out, held_out, characters, record)


def _device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return f"{names[0] if names else platform.processor() or 'CPU'}, {os.cpu_count()} cores"


def _save(value: object, path: Path) -> None:
    """Saves beside the place and renames, so that a kill leaves the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    os.replace(temporary, path)


def main() -> None:
    args = parse_arguments()
    args.scratch.mkdir(parents=True, exist_ok=True)
    (args.scratch / "arguments.json").write_text(json.dumps({k: str(v) for k, v in vars(args).items()}, indent=2))
    if args.card_only:
        write_card(args.out)
    elif args.export_only:
        export_checkpoint(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
