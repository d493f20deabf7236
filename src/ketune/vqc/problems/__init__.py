"""Problems to train variational circuits on, made offline and known exactly."""

from ketune.vqc.problems.base import EnergyProblem, LabelledData, Rows

__all__ = ["EnergyProblem", "LabelledData", "Rows"]
