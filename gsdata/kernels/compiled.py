"""Compiled kernels from Numba's cache, without loading Numba's compiler.

What may be changed: all of it may go. Numba then loads the same code itself, after 0.2 s of processor time in which it imports what only
a compiler needs (and SciPy, where it is installed). That is most of the time to a process's first image.
"""

from __future__ import annotations

from typing import Any


def load_cached(*kernels: Any) -> None:
    """Give kernels (``njit(cache=True)``) what Numba's cache has of them; those that it has not are compiled as ever.

    Numba decides what fits: its version, this processor, and the source that was compiled are parts of the key. This does what its
    dispatcher does at the first call of a kernel, less the refreshing of its registries.
    """
    try:
        from numba.core.compiler_lock import global_compiler_lock
        from numba.core.runtime.nrt import rtsys

        with global_compiler_lock:
            for kernel in kernels:
                rtsys.initialize(kernel.targetctx)
                for signature, *_ in kernel._cache._cache_file._load_index():
                    found = kernel._cache._load_overload(signature, kernel.targetctx)
                    if found is not None and found.signature.args not in kernel.overloads:
                        kernel.targetctx.insert_user_function(found.entry_point, found.fndesc, [found.library])
                        kernel.add_overload(found)
    except Exception:  # noqa: S110  # another Numba, without these names, or without a cache that can be read
        pass
