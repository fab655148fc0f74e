#!/usr/bin/env bash
# Holds what the program links against deny.toml: licences, bans, sources; and known vulnerabilities, if
# their list can be had. Without it the rest is checked all the same, and that it was not is said.
# AUDIT_STRICT=1 makes a missing list a failure.
set -euo pipefail
deny=$1
"$deny" --locked check --hide-inclusion-graph licenses bans sources
lists=${CARGO_HOME:-$HOME/.cargo}/advisory-dbs
if fetched=$("$deny" --locked fetch db 2>&1); then
  "$deny" --locked check --disable-fetch advisories
  echo "vulnerabilities: checked against a list of today"
elif [ -n "$(ls -d "$lists"/*/.git 2>/dev/null)" ]; then
  age=$(stat --format=%y "$lists"/*/.git/HEAD | sort | tail -1)
  "$deny" --locked check --disable-fetch advisories
  echo "vulnerabilities: checked against a list of ${age%% *}; a newer one could not be fetched"
else
  echo "vulnerabilities: NOT CHECKED, the list could not be fetched: $(tail -1 <<<"$fetched")" >&2
  [ "${AUDIT_STRICT:-0}" = 0 ]
fi
