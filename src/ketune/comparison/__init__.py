"""The comparison: experiments, cells in processes of their own, results, statistics and the report."""

from ketune.comparison.results import Result, load_results
from ketune.comparison.runner import Outcome, run_comparison
from ketune.comparison.spec import ComparisonSpec

__all__ = ["ComparisonSpec", "Outcome", "Result", "load_results", "run_comparison"]
