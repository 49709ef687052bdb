"""Namespaces that are divided into partitions, on one server and on the nodes of a cluster."""
