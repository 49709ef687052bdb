"""What the tests and the benchmarks share: servers, clusters, faults, histories and their checker."""
