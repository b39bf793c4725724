#!/usr/bin/env bash
# Installs what the tests talk to and the machine lacks: a real redis-server, a C compiler for the race detector, Node, and
# the JavaScript PubNub SDK as locked. Does nothing when all of it is there. Needs root or sudo only to install packages.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v "${CC:-gcc}" >/dev/null || missing+=(gcc libc6-dev)
if [ -x test/pubnub/js/install.sh ]; then
	command -v node >/dev/null || missing+=(nodejs)
	command -v npm >/dev/null || missing+=(npm)
fi

if [ "${#missing[@]}" -gt 0 ]; then
	if ! command -v apt-get >/dev/null; then
		echo "Install these first, by your system's means: ${missing[*]}" >&2
		exit 1
	fi
	as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		if ! command -v sudo >/dev/null; then
			echo "Install these first, as root: apt-get install ${missing[*]}" >&2
			exit 1
		fi
		as_root=(sudo)
	fi
	echo "installing ${missing[*]}"
	# The package must not start a server of its own: the tests start theirs, on free ports.
	if [ ! -e /usr/sbin/policy-rc.d ] && [ "$(id -u)" -eq 0 ]; then
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi

if [ -x test/pubnub/js/install.sh ]; then
	test/pubnub/js/install.sh </dev/null
fi
