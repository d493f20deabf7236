"""A trained adapter as one that PEFT and servers load without Ketune."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ketune.errors import KetuneError
from ketune.finetuning.merging import method_of, weight_bytes
from ketune.finetuning.quiet import quiet_transformers
from ketune.finetuning.trained import load_trained

if TYPE_CHECKING:
    from ketune.adapters import ConvertedLora

KINDS = ("lora", "plain")


class ExportError(KetuneError):
    """An adapter that cannot be exported, with the reason."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: the new folder.
        method: PEFT's name of the method that the adapter had, in lower case.
        kind: PEFT's name of what it is now, "lora" or "prefix_tuning".
        n_bytes: size of the weights on disk.
        conversion: ranks and errors of `to_lora`; None for an exact export.
    """

    folder: Path
    method: str
    kind: str
    n_bytes: int
    conversion: ConvertedLora | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        found = {**asdict(self), "folder": str(self.folder)}
        if self.conversion is not None:
            found["conversion"] = self.conversion.to_dict()
        return found


def export_adapter(
    adapter: str | Path,
    out: str | Path,
    to: str = "lora",
    rank: int | float | None = None,
    model: str | Path | None = None,
    *,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> Exported:
    """Writes an adapter as a plain one: the best LoRA of a rank, or exactly what a generator of QPA makes.

    Args:
        adapter, model, dtype, device, trust_remote_code: as in `load_trained`.
        out: a folder that does not stand yet, or is empty; it appears whole or not at all.
        to: "lora" (`ketune.to_lora`, any update that is linear in x) or "plain" (`ketune.export_plain`, QPA's LoRA,
            DoRA or prefix without an error).
        rank: of "lora", as in `ketune.to_lora`.

    Raises:
        ExportError: for an unknown kind, a rank that "plain" has no use for, and a model without an adapter.
        KetuneError: as in `to_lora`, `export_plain` and `load_trained`, and for a folder that holds something already.
    """
    from peft import PeftModel

    from ketune.adapters import export_plain, to_lora
    from ketune.adapters.loading import read_config
    from ketune.adapters.new_folder import free_folder, write_folder

    if to not in KINDS:
        raise ExportError(f"to={to!r}: choose one of {', '.join(map(repr, KINDS))}")
    if to == "plain" and rank is not None:
        raise ExportError(f"rank={rank}: a plain export is exact and has the adapter's own rank; leave it out")
    target = free_folder(out)
    loaded, _ = load_trained(adapter, model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    if not isinstance(loaded, PeftModel):
        raise ExportError(
            f"{adapter}: all weights were trained, there is no adapter to export; use the folder as it is"
        )
    conversion = None
    with quiet_transformers():
        if to == "lora":
            conversion = to_lora(loaded, target, rank)
        else:
            write_folder(target, lambda folder: export_plain(loaded, folder))
    kind = str(getattr(read_config(target).peft_type, "value", "")).lower()
    return Exported(target, method_of(loaded), kind, weight_bytes(target), conversion)
