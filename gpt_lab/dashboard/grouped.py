"""trackio's page with its runs grouped by arm when it opens.

trackio can serve another front end (`show(frontend_dir=...)`) and knows no way to say what runs are grouped by.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

SCRIPT = """<script>
(() => {
  const field = (name) => document.querySelector(`input[aria-label="${name}"]`);
  const done = new Set();  // projects: what is picked there later stays
  let tries = 0;
  setInterval(() => {
    const input = field("Group by"), project = field("Project")?.value ?? "";
    if (!input || done.has(project)) return;
    if (input.value || ++tries > 100) { done.add(project); tries = 0; return; }
    if (!document.querySelector(".checkbox-list label")) return;
    input.focus();
    setTimeout(() => {
      const options = [...document.querySelectorAll("ul.options li")];
      const wanted = options.find((one) => one.textContent.replace("✓", "").trim() === "arm");
      if (wanted) wanted.dispatchEvent(new MouseEvent("mousedown", {bubbles: true, cancelable: true}));
      input.blur();
    }, 50);
  }, 200);
})();
</script>
"""


def frontend(folder: Path) -> Path:
    """A copy of trackio's page with SCRIPT, in a folder below `folder`; made once for each version of trackio."""
    from trackio.frontend_config import BUNDLED_FRONTEND_DIR

    html = (BUNDLED_FRONTEND_DIR / "index.html").read_text(encoding="utf-8").replace("</body>", f"{SCRIPT}</body>")
    made = folder / f"trackio-page-{hashlib.sha256(html.encode()).hexdigest()[:12]}"
    if not (made / "index.html").is_file():
        temporary = folder / f".{made.name}.{os.getpid()}"
        shutil.copytree(BUNDLED_FRONTEND_DIR, temporary)
        (temporary / "index.html").write_text(html, encoding="utf-8")
        try:
            os.replace(temporary, made)
        except OSError:  # another process was faster
            shutil.rmtree(temporary, ignore_errors=True)
    return made
