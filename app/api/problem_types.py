"""The types of problems, with the meaning of each error answer and what to do about it."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem, with its name in the ``type`` path and the texts of its page."""

    slug: str
    status: int
    title: str
    meaning: str
    remedy: str
    retry_after_s: int | None = None
    """The seconds of ``Retry-After``; ``None`` if repeating the request does not help."""

    @property
    def path(self) -> str:
        """The path of the page that explains it."""
        return f"/problems/{self.slug}"


_TYPES = (
    ProblemType(
        "malformed-request", 400, "This is not an HTTP request",
        "What came over the connection cannot be read as HTTP/1.1. The connection was closed. Nothing was changed.",
        "Look at the request line, at the number and size of the header lines, and at how the body's length is announced.",
    ),
    ProblemType(
        "malformed-json", 400, "The body is not JSON",
        "The body is not one JSON text in UTF-8, or JSON readers would understand it differently: it names a member"
        " twice, holds NaN or Infinity, or is nested too deeply. Nothing was changed.",
        "Send one JSON object, in UTF-8 and without a byte order mark, each member once.",
    ),
    ProblemType(
        "invalid-header", 400, "A header cannot be understood",
        "A header does not have the form that its specification requires, or does not belong to this request. Because it could"
        " decide what the request does, it is not ignored. Nothing was changed.",
        'Send entity tags as they came in ETag, with their quotes (If-Match: "7"); on POST of a collection send'
        " neither If-Match nor If-None-Match. Send Idempotency-Key once, with 1 to 255 printable ASCII characters.",
    ),
    ProblemType(
        "unauthenticated", 401, "A key is needed",
        "The request has no key, or none that is valid: it is unknown, mistyped, revoked or expired."
        " Nothing was read or changed.",
        "Send a key with: Authorization: Bearer lrd_... The operator makes keys with `larder keys create`.",
    ),
    ProblemType(
        "forbidden", 403, "The key does not allow this",
        "The key is valid, but lacks the scope of this operation, which `scope` names. Nothing was read or changed.",
        "Use a key that has the scope. The operator makes one with `larder keys create --scope`.",
    ),
    ProblemType(
        "cross-site", 403, "A page of another site may not write",
        "A browser sent this write for a web page of another site. Nothing was changed.",
        "Send the request from a server, or from a page of the service's own origin. The operator can name further origins"
        " in LARDER_CORS_ORIGINS.",
    ),
    ProblemType(
        "route-not-found", 404, "No such route",
        "The service has nothing at this path. Nothing was read or changed.",
        "Compare the path with the list at /docs. Paths are case-sensitive and end without a slash.",
    ),
    ProblemType(
        "product-not-found", 404, "No such product",
        "The request names products that were never created or have been deleted; `missing` lists them. Nothing was changed.",
        "Check the ids, which are case-sensitive. PUT /products/{id} creates a product of that id.",
    ),
    ProblemType(
        "reservation-not-found", 404, "No such reservation",
        "No reservation has the id that `reservation_id` names, or it was closed long ago and has been removed."
        " Nothing was changed.",
        "Check the id, which is case-sensitive. POST /reservations makes a reservation and returns its id.",
    ),
    ProblemType(
        "write-not-found", 404, "No such write",
        "The client that asks has sent no write with this Idempotency-Key, or its answer is no longer kept."
        " Nothing was read or changed.",
        "Check the key. If the write was never answered, send it again under the same key: it is done once.",
    ),
    ProblemType(
        "method-not-allowed", 405, "The path does not take this method",
        "There is something at this path, but it does not take this method. Nothing was changed.",
        "Use one of the methods in the Allow header.",
    ),
    ProblemType(
        "request-timeout", 408, "The request came too slowly",
        "The head or the body of the request was not complete in time. The connection was closed. Nothing was changed.",
        "Send the request again on another connection, at 1 KiB/s or faster. If that fails again, look at the network between.",
    ),
    ProblemType(
        "already-exists", 409, "A product of that id exists",
        "POST /products only creates, and a product of that id is there at `current_version`. It was left as it is.",
        "Choose another id, or leave it out to be given one. PUT /products/{id} replaces an existing product.",
    ),
    ProblemType(
        "insufficient-stock", 409, "There is not enough stock",
        "The request takes more of a product than it can have. `shortages` lists each such product with what it could have had"
        " (`available`), what it takes in total (`requested`), and the product's `stock` and `reserved` units at `version`."
        " No line of it was done. A reservation that could not be committed stays as it is.",
        "Take less, or wait until stock has been added. To correct a wrong stock, send a count to PUT /products/{id}/stock.",
    ),
    ProblemType(
        "stock-limit", 409, "The stock would grow too large",
        "The request would raise the stock of the products in `product_ids` above 9007199254740991 (2^53-1), the largest"
        " integer that every JSON reader holds exactly. No line of it was done.",
        "Check the delta. No larger stock can be kept.",
    ),
    ProblemType(
        "product-reserved", 409, "Units of the product are held",
        "The product cannot be deleted while reservations hold units of it; `reserved` says how many. It was left as it is, at"
        " `current_version`.",
        "List the reservations with GET /reservations?product_id= and release them, or wait until they end.",
    ),
    ProblemType(
        "reservation-expired", 409, "The reservation has ended",
        "The reservation ended at `expires_at`, and the units that it still held were given back. It is at `current_version`."
        " Nothing else was changed.",
        "Make a new reservation, or sell the units with an adjustment if they are still free.",
    ),
    ProblemType(
        "reservation-closed", 409, "Nothing of the reservation is open",
        "Every unit of the reservation has been committed or released, or has expired; `reservation_status` says how the last"
        " one ended."
        " It is at `current_version`. Nothing was changed.",
        "Read the reservation to see what became of its lines. Make a new one for further units.",
    ),
    ProblemType(
        "not-held", 409, "The reservation holds less",
        "The request names more units of a line than are open. `lines` lists each such line with its `open` and `requested`"
        " units. Nothing was changed.",
        "Read the reservation, and name at most the open units of each line.",
    ),
    ProblemType(
        "request-in-progress", 409, "The first request with this key is under way",
        "Another request with the same Idempotency-Key has begun and did not finish in time. This one was not begun.",
        "Repeat the request with the same key after Retry-After: it will get the same answer as the first one.",
        1,
    ),
    ProblemType(
        "cursor-too-old", 410, "The cursor is too old",
        "The events behind the cursor are no longer kept. `resync` names what to read to begin anew. Nothing was changed.",
        "Take a new cursor with GET /changes, then read the whole list, then go on from that cursor; in this order nothing is"
        " missed. The operator sets how long a cursor is good with LARDER_FEED_KEEP_S.",
    ),
    ProblemType(
        "cursor-of-another-history", 410, "The cursor belongs to another history of the database",
        "The database was restored, promoted, truncated or upgraded since the cursor was made, so what changed since then"
        " cannot be told. `resync` names what to read to begin anew. Nothing was changed.",
        "Take a new cursor with GET /changes, then read the whole list, then go on from that cursor; in this order nothing is"
        " missed.",
    ),
    ProblemType(
        "precondition-failed", 412, "The product or reservation is not as the request expects it",
        "If-Match or If-None-Match does not match the product or reservation: somebody else changed, created or deleted it, or"
        " a reservation has ended. `current_version` is the version it has now, or null when there is none."
        " Nothing was changed.",
        "Read it again, decide anew, and send the request with its current ETag.",
    ),
    ProblemType(
        "body-too-large", 413, "The body is too large",
        "The body has more bytes than the service takes; `limit_bytes` says how many that is. Nothing was changed.",
        "Send less at once: split a batch into several.",
    ),
    ProblemType(
        "unsupported-media-type", 415, "The body is not declared as JSON",
        "Content-Type or Content-Encoding names something that this operation does not read. Nothing was changed.",
        "Send uncompressed JSON as application/json; PATCH takes application/merge-patch+json too.",
    ),
    ProblemType(
        "invalid-request", 422, "The request breaks a rule",
        "The request can be read, but a field or parameter is missing, unknown, of another kind or out of its range."
        " `errors` names each by a JSON pointer into the body or by its parameter. Nothing was changed.",
        "Correct what `errors` lists; repeated as it is, the request will be refused again.",
    ),
    ProblemType(
        "repeated-product", 422, "The batch names the product twice",
        "An earlier item of the same batch has this id. Items are not applied one after another, so the later one was refused;"
        " the earlier one was handled normally.",
        "Send each id once in a batch.",
    ),
    ProblemType(
        "several-pairs", 422, "The products belong to several pairs",
        "The request names products of this pair of Larder and PostgreSQL (`here`) and of others (`elsewhere`). What is done"
        " together is done in one PostgreSQL. Nothing was read or changed.",
        "Send one request for each pair. Each of them is done as a whole or not at all, and one may fail alone.",
    ),
    ProblemType(
        "idempotency-key-reused", 422, "The key belongs to another request",
        "A request with this Idempotency-Key was answered before, and it had another method, path, query, precondition or"
        " body. Its answer would be wrong for this one. Nothing was changed.",
        "Send each request with a key of its own, and repeat it unchanged, byte for byte, under that key.",
    ),
    ProblemType(
        "precondition-required", 428, "Setting this stock needs If-Match",
        "The product exists and the request carries a stock. Without a version, an old copy of the product could bring back"
        " units that were sold meanwhile. Nothing was changed.",
        "Add If-Match with the ETag of the product you read, leave `stock` out, or set it with PUT /products/{id}/stock.",
    ),
    ProblemType(
        "internal-error", 500, "Something unforeseen happened",
        "The request failed because of a bug in the service, which logged the error. Whether a change was made is not known.",
        "Read the product to see its state. Report the X-Request-Id of the answer to whoever operates the service.",
    ),
    ProblemType(
        "host-not-allowed", 421, "The service has another name",
        "The Host header names a host under which this service is not reached. Nothing was read or changed.",
        "Use the name that the operator has published. The operator adds names to LARDER_ALLOWED_HOSTS.",
    ),
    ProblemType(
        "not-here", 421, "It belongs to another pair",
        "The product, the reservation or the bucket that the request names belongs to another pair of Larder and PostgreSQL."
        " `bucket` is its number, and `buckets_here` are those of this pair. Nothing was read or changed.",
        "Send the request to the pair that has the bucket. If a router chose this one, its map is wrong or the bucket has just"
        " been moved: correct the map, or repeat the request.",
    ),
    ProblemType(
        "rate-limited", 429, "The client sends too much",
        "The client has used up its rate in this process. Nothing was read or changed.",
        "Send the request again after Retry-After, and fewer in the same time. Lists, batches and reads with no-cache cost more"
        " than reads of one product. The operator sets a client's rate with `larder keys create --rate`.",
        1,
    ),
    ProblemType(
        "quota-exceeded", 429, "A quota of the day is used up",
        "The client has created as many products, or sent as many new idempotency keys, as it may in a day."
        " Nothing was changed.",
        "Send the request again after Retry-After; the quota becomes free evenly over the day. Reads go on. The operator sets"
        " the quotas with LARDER_CLIENT_PRODUCTS_PER_DAY and LARDER_CLIENT_KEYS_PER_DAY.",
        1,
    ),
    ProblemType(
        "keys-unavailable", 503, "Keys cannot be checked",
        "The stored keys could not be read for more than two seconds, so a revoked key could not be told from a valid one."
        " Nothing was read or changed.",
        "Send the request again after Retry-After. The operator finds the reason in the service's log.",
        1,
    ),
    ProblemType(
        "overloaded", 503, "Too many requests are waiting",
        "The request could not be carried out in time: too many requests or connections are under way, others"
        " hold the product's row, PostgreSQL has reached one of its limits, or the service is stopping. Nothing was done for"
        " this request.",
        "Repeat it after Retry-After, and send fewer requests at once.",
        1,
    ),
    ProblemType(
        "bucket-moving", 503, "The bucket moves to another pair",
        "The products of the bucket, whose number is `bucket`, are being moved to another pair of Larder and PostgreSQL."
        " Nothing was changed.",
        "Repeat the request after Retry-After. Once the bucket has moved, the router has to send it to the other pair.",
        1,
    ),
    ProblemType(
        "feed-starting", 503, "The change feed has not begun yet",
        "The database has begun a new history, and no audit of the cache has completed in it. Nothing was read or changed.",
        "Repeat the request after Retry-After. Usually the first audit completes within seconds.",
        2,
    ),
    ProblemType(
        "database-unavailable", 503, "PostgreSQL does not answer",
        "The database did not answer in time, or it must not be used now: it is a standby or an old primary, or its tables do"
        " not fit this release. So the answer is not known. Nothing was changed.",
        "Repeat the request after Retry-After.",
        2,
    ),
    ProblemType(
        "not-enabled", 503, "The upgrade is not finished",
        "The database is still used by a release that does not know this operation. Nothing was changed.",
        "The operator ends the upgrade with `larder migrate --finish`, when the last instance of the release before has"
        " stopped.",
    ),
    ProblemType(
        "cache-unavailable", 503, "Redis does not answer",
        "The cache gave no definite answer, so the entry may or may not be dropped. Products are safe in the database,"
        " and reading and writing them goes on without the cache.",
        "Repeat the request after Retry-After; dropping an entry twice does no harm.",
        1,
    ),
    ProblemType(
        "outcome-unknown", 503, "Whether the change happened is not known",
        "The change was sent to the database, and then the database's answer was lost, or its visibility to all readers could"
        " not be confirmed in time. It happened as a whole or not at all.",
        "Repeat a request that had an Idempotency-Key, with the same key: it is done once. Without one, read the product"
        " before you decide; PUT and DELETE may simply be repeated, with If-Match to be safe.",
        1,
    ),
)  # fmt: skip
TYPES: Mapping[str, ProblemType] = {kind.slug: kind for kind in _TYPES}
"""The problem types by slug, in the order of their statuses."""
