#!/usr/bin/env bash
# Puts into .venv/bin what the tests use and only Debian packages have: promtool, which checks the metrics page.
# Unpacks the package there and installs nothing. Where that can't be done the test that wants it is skipped, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -x .venv/bin/promtool ]; then
  exit 0
fi
if found=$(command -v promtool); then
  ln -sf "$found" .venv/bin/promtool
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get dpkg >/dev/null; then
  echo "promtool is not here, and fetching it takes root on Debian: its test will be skipped"
  exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
fetch() {
  (cd "$folder" && apt-get -qq download prometheus >/dev/null 2>&1)
}
if fetch || { apt-get -qq update >/dev/null 2>&1 && fetch; }; then
  dpkg -x "$folder"/prometheus_*.deb "$folder/unpacked"
  install "$folder/unpacked/usr/bin/promtool" .venv/bin/promtool
else
  echo "promtool could not be fetched from Debian's packages: its test will be skipped"
fi
