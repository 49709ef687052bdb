"""`larder import`: a CSV of products, streamed through the batch operation of a running Larder.

One direction of flow, each part knowing only the one before it:

    source    bytes of a file (plain or gzip) -> lines of text
    rows      lines -> rows that can be sent, or refusals with their line
    chunks    rows -> chunks of bounded size, each id once
    sender    a chunk -> one outcome per row, over HTTP, with retries
    flow      bounded concurrency, results back in the order of the file
    report    counts, the list of refused rows, progress
    command   arguments, signals, exit status
"""
