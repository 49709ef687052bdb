"""`larder import`: a CSV of products, streamed through the batch operation of a running Larder.

One direction of flow, each part knowing only the one before it:

    source    bytes of a file (plain or gzip) -> lines of text
    records   lines -> cells under named columns
    rows      cells -> rows that can be sent, or refusals with their line
    chunks    rows -> chunks of bounded size, each id once
    posting   one request over HTTP, with retries
    sender    a chunk -> one outcome per row
    flow      bounded concurrency, results back in the order of the file
    report    counts, the list of refused rows, progress
    command   arguments, exit status

`source`, `records`, `posting`, `retry`, `arguments` and `interruption` know nothing of products: `app.replay` uses them too.
"""
