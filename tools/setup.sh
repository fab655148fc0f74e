#!/usr/bin/env bash
# Installs what a bare Debian or Ubuntu lacks: with apt where that is allowed, else it prints the line.
set -euo pipefail

packages=()
command -v cc >/dev/null || packages+=(build-essential)
python3 -m pip --version >/dev/null 2>&1 || packages+=(python3-pip)
python3 -c 'import ensurepip, venv' >/dev/null 2>&1 || packages+=(python3-venv)
[ -e /etc/ssl/certs/ca-certificates.crt ] || [ "$(uname)" != Linux ] || packages+=(ca-certificates)

# What the tests need beyond: a database server of their own. They skip what it is missing for.
if [ "${1:-}" = test ] && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  packages+=(postgresql)
fi

# Readers of DICOM results. Their tests say what is missing.
if [ "${1:-}" = pacs ]; then
  command -v dsrdump >/dev/null || packages+=(dcmtk)
  command -v pdftotext >/dev/null || packages+=(poppler-utils)
  command -v Orthanc >/dev/null || packages+=(orthanc orthanc-dicomweb)
fi

if [ ${#packages[@]} -gt 0 ]; then
  line="apt-get install -y ${packages[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "missing: ${packages[*]} (by their Debian names); install them and try again" >&2
    exit 1
  elif [ "$(id -u)" = 0 ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line -qq >/dev/null
  elif sudo -n true 2>/dev/null; then
    sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive $line -qq >/dev/null
  else
    echo "missing: ${packages[*]}; please run: sudo $line" >&2
    exit 1
  fi
fi

if ! command -v cargo >/dev/null; then
  echo "missing: Rust; install it with rustup (https://rustup.rs) and try again" >&2
  exit 1
fi

# Not part of rustup's minimal profile.
if [ "${1:-}" = lint ]; then
  missing=()
  cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
  cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
  if [ ${#missing[@]} -gt 0 ] && ! rustup component add "${missing[@]}"; then
    echo "missing: ${missing[*]}; install them beside cargo (with rustup: rustup component add ${missing[*]})" >&2
    exit 1
  fi
fi
