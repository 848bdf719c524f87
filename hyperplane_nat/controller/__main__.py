# SPDX-License-Identifier: Apache-2.0
"""`python -m hyperplane_nat.controller --ready-fd N`: the configuration comes as JSON on stdin."""

from __future__ import annotations

import argparse
import gc
import sys

from netns.ending import leave


def _run() -> int:
    parser = argparse.ArgumentParser(prog="python -m hyperplane_nat.controller")
    parser.add_argument("--ready-fd", type=int, help="descriptor to report progress to")
    parser.add_argument(
        "--replace", action="store_true", help="remove what stands of the lab first"
    )
    parser.add_argument("--source", help="where the configuration is from")
    arguments = parser.parse_args()
    # What comes with the modules stays: a search for garbage among it takes a tenth of the start.
    gc.disable()
    from pydantic import ValidationError

    from hyperplane_nat.config.lab import Config
    from hyperplane_nat.controller.daemon import main
    from hyperplane_nat.controller.source import Source

    gc.freeze()
    gc.enable()
    try:
        config = Config.model_validate_json(sys.stdin.buffer.read())
    except ValidationError as error:
        sys.stderr.write(
            f"stdin: {error.error_count()} problems in the configuration, the first: "
            f"{error.errors()[0]['msg']} (use hyperplane-nat up, which checks it)\n"
        )
        return 2
    return main(
        config,
        ready_fd=arguments.ready_fd,
        replace=arguments.replace,
        source=None if arguments.source is None else Source.decode(arguments.source),
    )


if __name__ == "__main__":
    leave(_run())
