"""Contenders take the same requests in alternated rounds; a row counts only if its answers were right."""
