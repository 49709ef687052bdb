"""The catalogue's rules and transactions, on real servers."""
