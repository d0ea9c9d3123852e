"""How fast the library is: `python -m benchmarks` measures it beside its peers. See docs/benchmarks/README.md."""
