"""`larder replay` and `larder catalogue`: a shop's sales as requests, and the products that they need.

One direction of flow, each part knowing only the one before it; files, CSV, retries and signals are `app.importer`'s:

    ids          codes of the file -> ids that a product may have
    sales        CSV records -> lines of sales
    adjustments  lines -> one request for each invoice, with its idempotency key
    survey       the whole file once, before anything is sent: what is wrong with it, and how much it is
    sender       a request -> its answer: accepted or refused
    clients      several at once, at a steady rate if asked for
    refusals     the list of what was not accepted
    report       counts, latencies, progress
    command      one run, from opened files to the exit status

    catalogue    CSV records -> the products sold, as a CSV for `larder import`
"""
