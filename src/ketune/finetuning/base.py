"""Loading the base model and its tokenizer, with errors that say what is wrong with a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ketune.assets.names import BUNDLED_MODEL
from ketune.errors import ModelError
from ketune.finetuning.bitsandbytes import bitsandbytes_config
from ketune.finetuning.quiet import quiet_transformers
from ketune.quantization import transformers_quantizer  # noqa: F401  (our quantised models load from now on)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")


def load_base(
    model: str | Path | PreTrainedModel,
    dtype: str = "auto",
    device: str = "auto",
    *,
    trust_remote_code: bool = False,
    quantization: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model and its tokenizer, ready to be adapted.

    Args:
        model: a folder with a Hugging Face model, a hub id, `"builtin:base"` for the model that comes with Ketune, or a
            model in memory (its tokenizer is then looked up by the model's name; the model is left as it is).
        dtype: "float32", "bfloat16", "float16" or "auto": bfloat16 on a CUDA device that has it, else float32.
        device: "cpu", "cuda", "cuda:1", ... or "auto": CUDA if there is one.
        trust_remote_code: run the code that comes with a model. Off unless you ask for it and have read that code.
        quantization: "nf4" or "int8": loaded by bitsandbytes, for adapters to stand beside. None: as it was saved,
            which may be quantised too.

    Returns:
        The model in evaluation mode, and the tokenizer with a padding token (the end-of-text token if it had none;
        padding is told from text by the attention mask alone, never by this token).

    Raises:
        ModelError: if the folder is missing, has no weights, or holds no causal language model.
    """
    from transformers import AutoModelForCausalLM, PreTrainedModel

    if isinstance(model, PreTrainedModel):
        return model, load_tokenizer(model.name_or_path, trust_remote_code=trust_remote_code)
    name, place = _resolve(model)
    target = resolve_device(device)
    kind = resolve_dtype(dtype, target)
    more: dict[str, Any] = {}
    if quantization is not None:
        more = {"quantization_config": bitsandbytes_config(quantization, kind), "device_map": {"": str(target)}}
    tokenizer = load_tokenizer(place, trust_remote_code=trust_remote_code)
    try:
        with quiet_transformers():
            loaded = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=kind,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                **more,
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, SafetensorError, ... for bad models
        raise ModelError(f"{name}: cannot be loaded as a causal language model: {_one_line(error)}") from error
    if name == BUNDLED_MODEL:
        # The path of an installed package means nothing on another machine; adapters remember this name instead.
        loaded.config.name_or_path = loaded.name_or_path = BUNDLED_MODEL
    if quantization is None:
        loaded = loaded.to(target)  # pyright: ignore[reportArgumentType]
    return loaded.eval(), tokenizer


def load_tokenizer(model: str | Path | None, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model and gives it a padding token if it has none.

    Raises:
        ModelError: if there is no tokenizer, or it has no end-of-text token, without which nothing learns to stop.
    """
    from transformers import AutoTokenizer

    if not model:
        raise ModelError("this model was made in memory and has no tokenizer to load; pass tokenizer=")
    name, place = _resolve(model)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)
    except Exception as error:  # as above
        raise ModelError(f"{name}: its tokenizer cannot be loaded: {_one_line(error)}") from error
    return prepare_tokenizer(tokenizer, name)


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, name: str = "tokenizer") -> PreTrainedTokenizerBase:
    """Checks for an end-of-text token and makes it the padding token if there is none; changes the tokenizer."""
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{name}: the tokenizer has no end-of-text token; set tokenizer.eos_token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def resolve_device(device: str = "auto") -> torch.device:
    """Returns the device meant.

    Raises:
        ModelError: if it is not a device, or CUDA is asked for and not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelError(f"device={device!r}: not a device; use 'auto', 'cpu' or 'cuda'") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device={device!r}: no CUDA device here; use 'auto' or 'cpu'")
    return target


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """Returns the dtype meant; "auto" is bfloat16 on a CUDA device that has it, and float32 elsewhere."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if dtype not in DTYPES:
        raise ModelError(f"dtype={dtype!r}: unknown; choose one of 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[dtype]


def context_length(model: torch.nn.Module) -> int | None:
    """Number of tokens that fit into the model beside the virtual tokens of a prompt-learning adapter; None if open."""
    config = getattr(model, "config", None)
    text_config = config.get_text_config() if config is not None and hasattr(config, "get_text_config") else config
    length = next(
        (
            n
            for name in ("max_position_embeddings", "n_positions", "max_seq_len")
            if (n := getattr(text_config, name, 0))
        ),
        None,
    )
    return None if length is None else length - n_virtual_tokens(model)


def n_virtual_tokens(model: torch.nn.Module) -> int:
    """Number of virtual tokens that the active adapter puts before each text (prefix tuning and its kin), else 0."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        return 0
    config = model.peft_config[_active_adapter(model)]
    return config.num_virtual_tokens or 0 if config.is_prompt_learning else 0  # pyright: ignore[reportAttributeAccessIssue]


def _active_adapter(model: torch.nn.Module) -> str:
    active = model.active_adapter
    return active if isinstance(active, str) else active[0]  # pyright: ignore[reportReturnType, reportIndexIssue]


def _resolve(model: str | Path) -> tuple[str, str]:
    """Returns what to call the model in errors, and what to hand to transformers."""
    name = str(model)
    if name.startswith("builtin:"):
        if name != BUNDLED_MODEL:
            raise ModelError(f"{name!r}: unknown built-in model; use {BUNDLED_MODEL!r}")
        from ketune.assets import base_model_path

        return name, str(base_model_path())
    path = Path(name).expanduser()
    if path.is_dir():
        _check_folder(path)
        return name, str(path.resolve())
    if path.exists():
        raise ModelError(f"{name}: is a file; pass the folder that holds config.json and the weights")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder; pass a model folder, a hub id or {BUNDLED_MODEL!r}")
    return name, name


def _check_folder(path: Path) -> None:
    has_weights = any(next(path.glob(pattern), None) for pattern in _WEIGHTS)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise ModelError(
            f"{path}: holds an adapter, not a base model; load it with ketune.load, or pass its base model"
        )
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: not a model folder, it has no config.json")
    if has_weights:
        return
    if any(path.glob("*.bin")) or any(path.glob("*.pt")) or any(path.glob("*.pth")):
        raise ModelError(f"{path}: holds pickled weights only, which can run code; convert them to safetensors first")
    raise ModelError(f"{path}: holds a config.json but no weights; add model.safetensors")


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
