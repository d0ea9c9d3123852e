"""The version of the package, written here only. A leaf: the build reads the value without importing the package."""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
