"""One file for each name of ``python -m benchmarks NAME``, with a function ``run(options)`` that prints and returns."""
