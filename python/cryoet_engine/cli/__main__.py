# SPDX-License-Identifier: MIT
"""`python -m cryoet_engine.cli` is `cryoet`."""

import sys

from . import main

sys.exit(main())
