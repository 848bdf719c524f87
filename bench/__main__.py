# SPDX-License-Identifier: Apache-2.0
"""`python -m bench`."""

from bench.application import app

if __name__ == "__main__":
    app(prog_name="python -m bench")
