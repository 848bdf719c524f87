# SPDX-License-Identifier: Apache-2.0
"""The flow cache: packets of established flows forwarded in the kernel, by records written here.

Theory of operation
-------------------
A program at tc ingress of each link (`flow_cache.bpf.c`, which tells how it decides) rewrites and
redirects what `keys` and `records` know, and sends everything else to the punt link, or leaves it
to what stands behind it. It is compiled where it is written: its object is in the repository
(`tools/build-bpf`). `elf` reads that, `program` hands it to the kernel and to links, `maps` has its
records, `probe` tells what a kernel lacks for it.

No file system keeps it. It lives as long as a filter of a link refers to it, and maps as long as it
does; whoever comes later asks the kernel for the program of the filter and for that program's maps
(`program.find`).

Nothing decides here what is to be cached: that is the engine's (`engine/flows/caching.pxd`). With
`forwarder.flow_cache` a lab has the program on its links (`controller.network.punt`), and its
forwarder writes the records (`forwarder.cached_keys`).
"""

from typing import TYPE_CHECKING

from netns import lazy_modules

if TYPE_CHECKING:
    from hyperplane_nat.flow_cache import probe as probe
    from hyperplane_nat.flow_cache import program as program
    from hyperplane_nat.flow_cache import shortcuts as shortcuts

__getattr__ = lazy_modules.of(__name__, "probe", "program", "shortcuts")
