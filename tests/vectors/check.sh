#!/usr/bin/env bash
# Two implementations against each other: Python makes what is committed, opens what Rust made and refuses what must be
# refused; then Rust the other way about. Needs python3; takes the package `cryptography` where it is, else installs it
# under target/. Fails on any difference.
set -euo pipefail
cd "$(dirname "$0")/../.."

works() {
  "$1" -c 'from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV; AESGCMSIV(bytes(32))' 2>/dev/null
}
python=python3
if ! works "$python"; then
  python=target/vectors-python/bin/python
  if ! works "$python"; then
    if ! python3 -m venv --clear target/vectors-python; then
      apt-get update -qq && apt-get install -y -qq python3-venv
      python3 -m venv --clear target/vectors-python
    fi
    "$python" -m pip install --quiet --disable-pip-version-check 'cryptography>=44'
  fi
fi

"$python" tests/vectors/sealcast.py make --check
"$python" tests/vectors/sealcast.py verify
cargo test --workspace --locked --quiet --test it vectors::
