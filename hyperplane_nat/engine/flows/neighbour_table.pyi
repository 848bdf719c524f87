# SPDX-License-Identifier: Apache-2.0
# C-level module: nothing of it is visible to Python.
