"""Larder alone, under a steady load: latency, statements, memory, the cost of each operation."""
