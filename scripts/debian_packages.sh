#!/usr/bin/env bash
# Install the Debian packages that tests need and this machine lacks. Without root, only list them. The tests that need
# them are then skipped, and fail on CI.
set -euo pipefail

missing=()
command -v prometheus >/dev/null || missing+=(prometheus)
command -v prometheus-alertmanager >/dev/null || missing+=(prometheus-alertmanager)
command -v chromium >/dev/null || missing+=(chromium)
/sbin/ldconfig -p | grep -q libatomic.so.1 || missing+=(libatomic1) # needed by playwright
command -v radosgw >/dev/null || missing+=(radosgw ceph-mon ceph-osd ceph-common)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v jq >/dev/null || missing+=(jq)
command -v g++ >/dev/null || missing+=(g++)
headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -e $headers/Python.h ]] || missing+=(python3-dev) # torch compiles against them
((${#missing[@]})) || exit 0

if ! command -v apt-get >/dev/null || ((EUID != 0)); then
  echo "some tests need: apt-get install ${missing[*]}" >&2
  exit 0
fi
apt-get update --quiet
DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends "${missing[@]}"
