"""Makes the environment of the peers, apart from Ketune's own: `.venv-peers` beside it, or the folder given.

    python benchmarks/peers/install.py [--env FOLDER] [--python python3.11]

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


def main() -> int:
    """Makes the environment and fills it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", type=Path, default=FOLDER.parents[1] / ".venv-peers", help="the environment's folder")
    parser.add_argument("--python", default=sys.executable, help="interpreter to make it with (default this one)")
    args = parser.parse_args()
    python = args.env / "bin" / "python"
    if not python.exists():
        subprocess.run([args.python, "-m", "venv", args.env], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if subprocess.run([*install, "-r", REQUIREMENTS]).returncode == 0:
        return 0
    print("trying the packages one by one", file=sys.stderr)
    lines = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    failed = [line for line in lines if line and subprocess.run([*install, line]).returncode != 0]
    print("not installed:", *failed or ["none"], file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
