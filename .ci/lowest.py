"""Print a pip constraints file: each run-time dependency at the lowest version that it may have."""

import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
for requirement in project["dependencies"] + extras["cli"] + extras["webhooks"]:
    name, _, bound = requirement.partition(">=")
    if bound:  # one extra may name another
        print(f"{name}=={bound}")
