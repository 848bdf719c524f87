# SPDX-License-Identifier: Apache-2.0
"""A lab in other people's tests: a pytest plugin, and a builder of its configuration.

`plugin` is what pytest loads, in every project that it is installed beside: neither it nor this
module imports more than pytest has imported anyway.
"""

from hyperplane_nat.testing.builder import Lab as Lab
