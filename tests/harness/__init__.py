"""The common parts of the tests and the benchmarks: servers, clusters, faults, histories and their checker."""
