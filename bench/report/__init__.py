# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: a table in the terminal, JSON, plots and a page."""
