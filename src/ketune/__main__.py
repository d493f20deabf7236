"""`python -m ketune`, which is also what `accelerate launch -m ketune finetune ...` starts on each device."""

from ketune.cli import main

main()
