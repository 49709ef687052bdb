"""``larder import``: a CSV of products, streamed through the batch operation of a running Larder.

Data flows in one direction, and each part uses only those above it:

    csv_file   bytes of a file (plain or gzip) -> lines of text
    rows       lines -> rows that can be sent, or are rejected, each with its line
    batches    rows -> batches of limited size, each id once
    stopping   signals that stop the import
    posting    one request over HTTP, repeated after the waits of ``retry``
    sender     the rows of a batch -> a result for each
    report     counts, the list of rejected rows, progress
    flow       several batches at once, their results in the order of the file
    run        one import, from the opened file to the exit status
"""
