"""Renderers: ``reference`` (float64, normative), ``dense`` (plain torch), ``cpu`` (Numba), ``cuda`` (CUDA through CuPy)."""
