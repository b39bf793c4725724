#!/bin/sh
# Installs the JavaScript SDK exactly as locked, once. Safe to run again, also by several processes at a time.
set -eu
cd "$(dirname "$0")"
exec 9>.install.lock
if command -v flock >/dev/null; then flock 9; fi
if [ -f node_modules/.locked ] && cmp -s package-lock.json node_modules/.locked; then
	exit 0
fi
# pubnub 12 declares node >= 22 and works on 20; npm only warns.
npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
cp package-lock.json node_modules/.locked
