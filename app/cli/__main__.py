"""`python -m app.cli`: the command, for whoever knows the interpreter and not where the script is."""

import sys

from app.cli import main

sys.exit(main())
