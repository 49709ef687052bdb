"""The checks of ``larder doctor``: whether Redis and PostgreSQL are as Larder needs them, each answered by a sentence."""
