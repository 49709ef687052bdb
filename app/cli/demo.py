"""The demo catalogue of ``larder dev``, and a tour of commands to try with it."""

import asyncio
import ssl
import time

import httpx

from app.cli.errors import CommandFailed

_TIMEOUT_S = 30.0
_FIRST_HIT_S = 5.0
_RETRY_S = 0.05
_FIRST = "mug-blue"
# id, name, price in cents, stock, reorder point
_PRODUCTS = [
    (_FIRST, "Blue mug", 1_299, 40, 10),
    ("mug-white", "White mug", 1_199, 55, 10),
    ("teapot-cast-iron", "Cast-iron teapot, 1.2 l", 4_950, 12, 4),
    ("tea-assam-250", "Assam, 250 g", 890, 120, 30),
    ("tea-sencha-100", "Sencha, 100 g", 1_150, 80, 20),
    ("honey-lime-500", "Lime blossom honey, 500 g", 975, 36, 12),
    ("jam-plum-340", "Plum jam, 340 g", 520, 64, 24),
    ("oil-olive-750", "Olive oil, 750 ml", 1_690, 28, 8),
    ("flour-spelt-1000", "Spelt flour, 1 kg", 340, 150, 50),
    ("salt-sea-250", "Sea salt, 250 g", 410, 90, 25),
    ("jar-preserving-1l", "Preserving jar, 1 l", 299, 200, 60),
    ("board-oak-40", "Oak cutting board, 40 cm", 3_890, 9, 3),
]


async def load_demo(url: str, key: str | None, certificate: str = "") -> str:
    """Load a dozen products if there are none, and return the id of a product for the tour.

    Args:
        url: where the service is.
        key: the key of a client, if one is needed.
        certificate: PEM file of the certificate that the service shows, if it speaks TLS.

    Raises:
        CommandFailed: the service did not accept them.
    """
    try:
        trusted = _only(certificate) if certificate else True
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(
            base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=False, verify=trusted
        ) as client:
            known = (await client.get("/products", params={"limit": 250})).raise_for_status().json()["items"]
            ids = [str(product["id"]) for product in known]
            results = []
            if not ids:
                names = ("id", "name", "price_cents", "stock", "reorder_point")
                items = [dict(zip(names, product, strict=True)) for product in _PRODUCTS]
                answer = await client.post("/products/batch", json={"items": items})
                results = answer.raise_for_status().json()["results"]
            shown = ids[0] if ids and _FIRST not in ids else _FIRST
            await _until_a_hit(client, shown)
    except (httpx.HTTPError, LookupError, ValueError) as error:
        raise CommandFailed(f"the demo catalogue could not be loaded ({error}). What was there before is unchanged.") from error
    if refused := [result["id"] for result in results if result["outcome"] == "refused"]:
        raise CommandFailed(f"the demo catalogue was refused: {', '.join(refused)}.")
    return shown


def _only(certificate: str) -> ssl.SSLContext:
    """Trust this certificate itself, whoever signed it. It need not name the loopback address."""
    trusted = ssl.create_default_context(cafile=certificate)
    trusted.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusted.check_hostname = False
    return trusted


async def _until_a_hit(client: httpx.AsyncClient, product_id: str) -> None:
    # The tour promises a hit, and there is none before the first audit. Without Redis there is none at all, so the wait has a
    # limit.
    deadline = time.monotonic() + _FIRST_HIT_S
    while time.monotonic() < deadline:
        answer = await client.get(f"/products/{product_id}")
        if answer.headers.get("Cache-Status", "").startswith("larder; hit"):
            return
        await asyncio.sleep(_RETRY_S)


def what_to_try(url: str, product_id: str, key: str | None) -> str:
    """Return a tour that can be pasted into another terminal."""
    product = f"{url}/products/{product_id}"
    curl = 'curl -i -H "$KEY"' if key else "curl -i"
    note = (
        f"Every request needs a key. This one may do everything for a day:\n\n  KEY='Authorization: Bearer {key}'"
        if key
        else "It is open to this machine: nobody needs a key. LARDER_ACCESS=keys closes it."
    )
    return f"""
Larder serves on {url} (Ctrl-C stops it and its private servers).

{note}

Every call can be read about and tried on   {url}/docs

Or paste into another terminal. Read a product; the second time its answer has `Cache-Status: larder; hit`:

  {curl} {product}

Count its stock, which writes through to PostgreSQL and the cache:

  {curl} -X PUT {product}/stock -H 'Content-Type: application/json' -d '{{"stock": 50}}'

Read it again: the new stock, and still a hit:

  {curl} {product}
"""
