"""The version of the package, the only place where it is written. A leaf; the build reads it without importing it."""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
