"""The script that draws charts: vega, vega-lite and vega-embed in one, as a report carries it."""

from __future__ import annotations

from contextlib import suppress

from slmbench.errors import SlmbenchError
from slmbench.system.extras import installed_version
from slmbench.system.files import read_regular, write_whole
from slmbench.system.paths import cache_dir


def chart_bundle() -> str:
    """Return the script. Bundling takes seconds and gives the same each time, so the cache keeps it where it can."""
    import vl_convert

    kept = cache_dir() / "report" / f"charts-{installed_version('vl-convert-python')}.js"
    with suppress(OSError, ValueError, SlmbenchError):
        return read_regular(kept).decode()
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with suppress(OSError, SlmbenchError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, script)
    return script
