"""`python -m egressguard` is the `egressguard` command."""

from egressguard.app.cli import main

main()
