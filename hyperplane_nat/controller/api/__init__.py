# SPDX-License-Identifier: Apache-2.0
"""The control API: requests, answers, and how they are served."""
