"""Names the installed packages that have known vulnerabilities: `python audit.py <pip-audit> <site-packages>`.

Exit code 1 if there are any; 0 where none are known, or where no service that knows them can be reached.
"""

import json
import subprocess
import sys

SECONDS = 300


def findings(report: str) -> tuple[list[str], int, int]:
    """Of pip-audit's JSON: a line for each vulnerability, how many packages were looked up, and how many were not."""
    lines, asked, skipped = [], 0, 0
    for package in json.loads(report)["dependencies"]:
        if "skip_reason" in package:
            skipped += 1
            continue
        asked += 1
        for found in package["vulns"]:
            names = " ".join(dict.fromkeys([found["id"], *found.get("aliases", [])]))
            cure = ", ".join(found["fix_versions"]) or "no release"
            lines.append(f"{package['name']} {package['version']}: {names}, mended by {cure}")
    return lines, asked, skipped


def main(words: list[str]) -> int:
    command = [words[0], "--path", words[1], "--format", "json", "--progress-spinner", "off", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        lines, asked, skipped = findings(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"audit: not done, pip-audit gave no report ({type(error).__name__})")
        return 0
    if not asked:
        print("audit: not done, no service that knows vulnerabilities could be reached")
        return 0
    print("\n".join(f"audit: {line}" for line in lines))
    print(f"audit: {len(lines)} known vulnerabilities in {asked} packages; {skipped} could not be looked up")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
