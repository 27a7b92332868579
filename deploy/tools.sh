#!/usr/bin/env bash
# Gets what only Debian packages have; takes root there. Where that can't be done, whoever wants it goes without, and says so.
#
#   deploy/tools.sh          for the tests: promtool, which checks the metrics page. Unpacked into .venv/bin, nothing is installed
#   deploy/tools.sh bench    for the bench: wrk, nginx, HAProxy and Caddy. Installed, but none of them is started
set -euo pipefail
cd "$(dirname "$0")/.."

can_fetch() {
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null
}

for_tests() {
  if [ -x .venv/bin/promtool ]; then
    return
  fi
  if found=$(command -v promtool); then
    ln -sf "$found" .venv/bin/promtool
    return
  fi
  if ! can_fetch; then
    echo "promtool is not here, and fetching it takes root on Debian: its test will be skipped"
    return
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
}

for_bench() {
  missing=()
  for name in wrk nginx haproxy caddy; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  if [ ${#missing[@]} = 0 ]; then
    return
  fi
  if ! can_fetch; then
    echo "not here, and installing takes root on Debian: ${missing[*]}"
    return
  fi
  policy=/usr/sbin/policy-rc.d # Debian's way to say that installing a server shall not start it
  if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  install_all() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1
  }
  install_all || { apt-get -qq update >/dev/null 2>&1 && install_all; } \
    || echo "could not be installed from Debian's packages: ${missing[*]}"
}

case "${1:-tests}" in
  tests) for_tests ;;
  bench) for_bench ;;
  *)
    echo "usage: deploy/tools.sh [bench]" >&2
    exit 2
    ;;
esac
