"""Files of sales for the tests of the replay."""

from pathlib import Path

HEADER = "invoice,stock_code,description,quantity,invoice_date,unit_price"


def write(folder: Path, *rows: tuple[str, str, int]) -> Path:
    """Write rows of invoice, code and quantity."""
    path = folder / "sales.csv"
    lines = [f"{invoice},{code},X,{quantity},d,1.0" for invoice, code, quantity in rows]
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return path
