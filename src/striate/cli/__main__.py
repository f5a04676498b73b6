"""`python -m striate.cli`, which is `striate`."""

from striate.cli import main

main()
