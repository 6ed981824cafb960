# SPDX-License-Identifier: MIT
"""Where both programs of the standalone folder start: `cryoet-viewer`, and `cryoet` beside it (see viewer.spec)."""

import multiprocessing
import sys
from pathlib import Path

# Worker processes are this program once more: here they turn off to their work.
multiprocessing.freeze_support()

if Path(sys.executable).name == "cryoet-viewer":
    from cryoet_engine.cli.view import main
else:
    from cryoet_engine.cli import main

sys.exit(main())
