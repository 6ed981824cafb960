# SPDX-License-Identifier: MIT
"""The `cryoet` command."""
