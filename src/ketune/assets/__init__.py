"""Files that Ketune carries: the bundled base model."""

from ketune.assets._paths import base_model_path

__all__ = ["base_model_path"]
