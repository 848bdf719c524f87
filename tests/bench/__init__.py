# SPDX-License-Identifier: Apache-2.0
"""The bench itself: its arithmetic, files and command lines, and one round with real packets."""
