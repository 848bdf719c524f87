# SPDX-License-Identifier: Apache-2.0
"""Tests that bring up real labs and move real packets through them; they need root."""
