"""``python -m app.cli`` runs the ``larder`` command where the path of its script is not known."""

import sys

from app.cli import main

sys.exit(main())
