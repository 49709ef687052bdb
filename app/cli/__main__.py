"""``python -m app.cli``: the command, where the interpreter is known and the path of the script is not."""

import sys

from app.cli import main

sys.exit(main())
