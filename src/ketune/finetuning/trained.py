"""Opening what a training run left: an adapter on its base model, or a model that was fine-tuned in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ketune.errors import DataError, ModelError
from ketune.finetuning.base import BUNDLED_MODEL, load_base
from ketune.finetuning.bitsandbytes import read_record
from ketune.finetuning.quantizing import BASE
from ketune.finetuning.quiet import quiet_transformers

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ketune.circuits import Circuit

ADAPTER_CONFIG = "adapter_config.json"


def load_trained(
    folder: str | Path,
    model: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Loads the result of `finetune`, or any PEFT adapter, with its base model and tokenizer.

    Args:
        folder: a folder with `adapter_config.json`, the `output_dir` of `finetune` (its `adapter/` is taken), the
            folder of a model that was fine-tuned in full, or a hub id of an adapter.
        model: the base model, if it is not where the adapter says it was.
        dtype, device, trust_remote_code: as in `load_base`.

    Returns:
        The model in evaluation mode, a `PeftModel` unless all weights were trained, and its tokenizer.

    Raises:
        ModelError: if there is no adapter, its base model cannot be found, or the two do not fit together.
    """
    place = find_adapter(folder)
    if isinstance(place, Path) and not (place / ADAPTER_CONFIG).is_file():
        if model is not None:
            raise ModelError(
                f"{place}: holds a whole model, not an adapter, so it has no base model; leave {model!r} out"
            )
        return load_base(place, dtype, device, trust_remote_code=trust_remote_code)

    from peft import PeftConfig

    from ketune.adapters import load

    name = str(place)
    if model is None:
        try:
            model = PeftConfig.from_pretrained(name).base_model_name_or_path
        except (KeyError, OSError, TypeError, ValueError):
            load(name)  # says what is wrong with it
            raise
        beside = Path(name).resolve().parent / BASE
        if model and not Path(model).exists() and (beside / "config.json").is_file() and Path(model).name == BASE:
            model = beside  # the run's folder was moved
        if not model:
            raise ModelError(f"{name}: the adapter does not say which base model it belongs to; pass model=")
    try:
        base, tokenizer = load_base(
            model, dtype, device, trust_remote_code=trust_remote_code, quantization=read_record(Path(name))
        )
    except ModelError as error:
        raise ModelError(f"{error} (the base model that the adapter {name} names; pass model= if it moved)") from error
    try:
        with quiet_transformers():
            adapted = load(name, model=base)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{name}: does not fit on {model}: {_one_line(error)}") from error
    return adapted.eval(), tokenizer


def load_either(
    adapter: str | Path | None,
    model: str | Path | None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """An adapter on its base model (`load_trained`), or a base model alone when there is no adapter (`load_base`).

    Raises:
        ModelError: when neither is given, or as in those two.
    """
    if adapter is not None:
        return load_trained(adapter, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if model is None:
        raise ModelError(f"nothing to load: pass an adapter's folder, or a model such as {BUNDLED_MODEL!r}")
    return load_base(model, dtype, device, trust_remote_code=trust_remote_code)


def generate_saved(
    adapter: str | Path | None,
    model: str | Path | None,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> list[str]:
    """Continues prompts with a saved adapter or model.

    Args:
        adapter, model, dtype, device, trust_remote_code: as in `load_either`.
        prompts, max_new_tokens, top_p, seed: as in `generate`.
        temperature: 0 takes the most probable token each time, above 0 draws.

    Raises:
        KetuneError: as in `load_either` and `generate`.
    """
    from ketune.finetuning.generation import generate

    if temperature < 0:
        raise DataError(f"temperature={temperature}: pass 0 for the most probable token, or a number above 0 to draw")
    loaded, tokenizer = load_either(adapter, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return generate(
        loaded,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        sample=temperature > 0,
        temperature=temperature or 1.0,
        top_p=top_p,
        seed=seed,
    )


def saved_circuit(
    adapter: str | Path, layer: str | None = None, *, trust_remote_code: bool = False
) -> tuple[str, Circuit, Tensor]:
    """The circuit of one layer of a saved adapter: the layer's name, the circuit, its trained angles.

    Args:
        adapter, trust_remote_code: as in `load_trained`.
        layer: as in `ketune.adapters.layer_circuits.trained_circuit`.

    Raises:
        KetuneError: as in these two.
    """
    from peft import PeftModel

    from ketune.adapters.layer_circuits import trained_circuit

    model, _ = load_trained(adapter, device="cpu", trust_remote_code=trust_remote_code)
    if not isinstance(model, PeftModel):
        raise ModelError(f"{adapter}: a whole model without an adapter has no circuit")
    return trained_circuit(model, layer)


def find_adapter(folder: str | Path) -> Path | str:
    """The folder that holds the weights; a text that is no path is handed back as a hub id.

    Raises:
        ModelError: if the folder is not there or holds neither an adapter nor a model.
    """
    path = Path(folder).expanduser()
    for place in (path, path / "adapter"):
        if (place / ADAPTER_CONFIG).is_file() or (place / "config.json").is_file():
            return place
    if path.exists():
        raise ModelError(
            f"{folder}: holds neither {ADAPTER_CONFIG} nor config.json; pass what `ketune finetune --out` wrote"
        )
    text = str(folder)
    if text == BUNDLED_MODEL or text.startswith((".", "/", "~")) or text.count("/") != 1:
        raise ModelError(f"{folder}: no such adapter folder; pass what `ketune finetune --out` wrote, or a hub id")
    return text


def _one_line(error: BaseException) -> str:
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else type(error).__name__
