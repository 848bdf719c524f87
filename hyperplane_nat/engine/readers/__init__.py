# SPDX-License-Identifier: Apache-2.0
"""What other processes see of the state map."""
