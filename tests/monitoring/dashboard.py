"""The Grafana dashboard as it is shipped."""

import json
import re
from typing import Any

from tests.monitoring.prometheus import FILES

DASHBOARD: dict[str, Any] = json.loads((FILES / "grafana" / "dashboards" / "larder.json").read_text(encoding="utf-8"))


def queries() -> dict[str, str]:
    """Return every query of a panel, a variable or an annotation, with Grafana's variables filled in."""
    found = {
        f"{panel['title']} / {target['legendFormat']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", ())
    }
    for variable in DASHBOARD["templating"]["list"]:
        selected = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert selected is not None
        found[f"variable {variable['name']}"] = f"count by ({selected[2]}) ({selected[1]})"
    return {
        name: expression.replace("$job", "larder")
        .replace("$instance", ".+")
        .replace("$namespace", ".+")
        .replace("$__rate_interval", "1m")
        for name, expression in found.items()
    }
