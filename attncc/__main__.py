"""``python -m attncc``: the command line."""

import sys

from attncc.cli.main import main

sys.exit(main())
