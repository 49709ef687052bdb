"""A write-through cache that is trusted only while it is proven current. See ``write_through`` first."""
