# SPDX-License-Identifier: Apache-2.0
"""What the NAT RFCs and AWS's documentation ask, and which test shows it: docs/conformance.md."""
