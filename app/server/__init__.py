"""One address: its listening socket, the processes behind it, and what they do with each connection."""
