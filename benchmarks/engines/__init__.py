"""The engines that `benchmarks.inference` compares, each in a worker process of its own."""
