"""Getting rid of an adapter: folded into the base model's weights, or, for SoRA, pruned to a plain LoRA."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.adapters.cpu_packing import unpack_
from ketune.errors import KetuneError
from ketune.finetuning.quiet import quiet_transformers
from ketune.finetuning.trained import load_trained

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class MergeError(KetuneError):
    """An adapter that cannot be merged or pruned, with the reason."""


@dataclass(frozen=True)
class Merged:
    """What was written.

    Attributes:
        folder: the new folder.
        method: PEFT's name of the method that was merged, in lower case.
        n_parameters: parameters of the merged model, or of the LoRA adapter that pruning left.
        n_bytes: size of the weights on disk.
        ranks: by layer, what pruning left; None after merging.
    """

    folder: Path
    method: str
    n_parameters: int
    n_bytes: int
    ranks: dict[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {**asdict(self), "folder": str(self.folder)}


def merge(
    adapter: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Merged:
    """Folds an adapter into its base model and writes a model that transformers loads without PEFT or Ketune.

    Args:
        adapter, model, dtype, device, trust_remote_code: as in `load_trained`; the dtype is that of the merged weights.
        out: a folder that does not stand yet, or is empty; it appears whole or not at all.

    Raises:
        MergeError: for an adapter that is no change of weights (prefix tuning, QAA with most readouts).
        KetuneError: for a folder that holds something already, and as in `load_trained`.
    """
    from peft import PeftModel

    from ketune.adapters.new_folder import free_folder, write_folder

    target = free_folder(out)
    loaded, tokenizer = load_trained(adapter, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if not isinstance(loaded, PeftModel):
        raise MergeError(f"{adapter}: all weights were trained, there is no adapter to merge; use the folder as it is")
    method = method_of(loaded)
    if loaded.active_peft_config.is_prompt_learning:
        raise MergeError(
            f"{adapter}: {method} keeps trained vectors beside the text, which no change of weights stands for; "
            "keep the adapter and load it with ketune.load"
        )
    try:
        merged = merge_into_base(loaded)
    except (AttributeError, NotImplementedError, ValueError) as error:
        raise MergeError(f"{adapter}: {' '.join(str(error).split())}") from error

    def write(folder: Path) -> None:
        with quiet_transformers():
            merged.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

    write_folder(target, write)
    return Merged(target, method, sum(p.numel() for p in merged.parameters()), weight_bytes(target))


def merge_into_base(model: PeftModel) -> PreTrainedModel:
    """The base model with the active adapter in its weights; the adapted model is used up.

    PEFT's adapters read weights of bitsandbytes as they lie there, which may be in the layout of a CPU kernel.

    Raises:
        ValueError, NotImplementedError, AttributeError: as PEFT, for an adapter that cannot be merged.
    """
    unpack_(model)
    return model.merge_and_unload(safe_merge=True)  # pyright: ignore[reportCallIssue]


def prune_to_lora(
    adapter: str | Path, out: str | Path, model: str | Path | None = None, *, trust_remote_code: bool = False
) -> Merged:
    """Drops the closed gates of a SoRA adapter and writes a plain LoRA adapter of the same function.

    Args:
        adapter, model, trust_remote_code: as in `load_trained`.
        out: as in `merge`.

    Raises:
        KetuneError: when the adapter is not SoRA, no gate is open, or the folder holds something already.
    """
    from peft import PeftModel

    from ketune.adapters import effective_ranks, prune
    from ketune.adapters.new_folder import free_folder, write_folder

    target = free_folder(out)
    loaded, _ = load_trained(adapter, model, dtype="float32", device="cpu", trust_remote_code=trust_remote_code)
    if not isinstance(loaded, PeftModel):
        raise MergeError(f"{adapter}: all weights were trained, there is no adapter to prune")
    if (method := method_of(loaded)) != "sora":
        raise MergeError(f"{adapter}: only SoRA has gates to prune, this adapter is {method}")
    ranks = {name.removeprefix("base_model.model."): rank for name, rank in effective_ranks(loaded).items()}
    with quiet_transformers():
        pruned = prune(loaded)
    count = sum(p.numel() for name, p in pruned.named_parameters() if ".lora_" in name)

    def write(folder: Path) -> None:
        with quiet_transformers():
            # The embeddings are the base's own; told so, PEFT need not look for the base to compare them.
            pruned.save_pretrained(str(folder), save_embedding_layers=False)

    write_folder(target, write)
    return Merged(target, "sora", count, weight_bytes(target), ranks)


def method_of(model: object) -> str:
    """PEFT's name of an adapted model's method, in lower case."""
    kind = model.active_peft_config.peft_type  # pyright: ignore[reportAttributeAccessIssue]
    return str(getattr(kind, "value", kind)).lower()


def weight_bytes(folder: Path) -> int:
    """Size of the weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
