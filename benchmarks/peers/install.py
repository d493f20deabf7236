"""Makes the environment of the peers, apart from Ketune's own: `.venv-peers` beside it, or the folder given.

    python benchmarks/peers/install.py [--env FOLDER] [--python python3.11] [--cuda]

Every version is pinned in `requirements.txt` and installed without its dependencies being resolved again: some peers
ask for versions long gone, but run on these. A package that cannot be installed is named and passed over; the benchmark
then reports its simulator as not installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
REQUIREMENTS = FOLDER / "requirements.txt"
CUDA = ("torch==2.13.0", "jax[cuda12]==0.10.2", "pennylane-lightning-gpu==0.45.0")
"""Installed with their dependencies, after the rest."""


def main() -> int:
    """Makes the environment and fills it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, default=FOLDER.parents[1] / ".venv-peers", help="the environment's folder")
    parser.add_argument("--python", default=sys.executable, help="interpreter to make it with (default this one)")
    parser.add_argument("--cuda", action="store_true", help="also the CUDA builds of torch, JAX and Lightning")
    args = parser.parse_args()
    python = args.env / "bin" / "python"
    if not python.exists():
        subprocess.run([args.python, "-m", "venv", args.env], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    failed = install_pinned(install)
    if args.cuda:
        with_dependencies = install[:-1]
        failed += [line for line in CUDA if subprocess.run([*with_dependencies, line]).returncode != 0]
    if failed:
        print("not installed:", *failed, file=sys.stderr)
    return 1 if failed else 0


def install_pinned(install: list[str | Path]) -> list[str]:
    """Installs what `requirements.txt` pins and returns the lines that failed."""
    if subprocess.run([*install, "-r", REQUIREMENTS]).returncode == 0:
        return []
    print("trying the packages one by one", file=sys.stderr)
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return [line for line in lines if line and subprocess.run([*install, line]).returncode != 0]


if __name__ == "__main__":
    sys.exit(main())
