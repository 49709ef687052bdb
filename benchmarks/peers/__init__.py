"""The same small service, built on other people's caches as their documentation recommends."""
