"""A write-through cache that is trusted only while it is proven current. Start reading in ``write_through``."""
