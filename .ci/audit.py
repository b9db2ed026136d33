"""
Ask a service for known vulnerabilities of the installed packages; fail if one is found.

    python .ci/audit.py [arguments of pip-audit, such as --ignore-vuln ID]

pip-audit itself ends with 1 for a vulnerability as for a service that does not answer, and with 0 where the service
knows none of the packages. Its report, which is only written after all answers came, tells them apart: without one
nothing was audited. That is said, and is a failure unless the service was why.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


COMMAND = ["pip_audit", "--skip-editable", "--progress-spinner", "off", "--timeout", "5", "--format", "json"]
# What pip-audit ends with when the service is away or answers nonsense.
SERVICE_ERRORS = ("requests.exceptions.", "ServiceError", "vulnerability feed", "not redirecting properly")


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        line = [sys.executable, "-m", *COMMAND, "--output", str(report), *arguments]
        ended = subprocess.run(line, capture_output=True, text=True)
        if not report.exists():
            if not any(error in ended.stderr for error in SERVICE_ERRORS):
                print(ended.stderr, file=sys.stderr)
                return ended.returncode or 1
            reason = ended.stderr.strip().splitlines()[-1]
            print(f"Not audited: the service of known vulnerabilities did not answer ({reason[:300]}).")
            return 0
        packages = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
    known = [package for package in packages if "skip_reason" not in package]
    vulnerable = [package for package in known if package["vulns"]]
    print(f"Audited {len(known)} of {len(packages)} packages, the ones that the service knows.")
    for package in vulnerable:
        for found in package["vulns"]:
            names = ", ".join(sorted({found["id"], *found.get("aliases", [])}))
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}.", file=sys.stderr)
    return int(bool(vulnerable))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
