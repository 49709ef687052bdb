"""What the process tells about its requests: lines in the log, and traces."""
