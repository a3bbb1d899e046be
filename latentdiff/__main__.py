"""`python -m latentdiff`."""

from latentdiff.cli import main

main()
