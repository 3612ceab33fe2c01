"""``python -m hubtunnel`` is the same as the ``hubtunnel`` command."""

import sys

from hubtunnel.cli import main

sys.exit(main())
