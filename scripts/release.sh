#!/bin/bash
# Builds the release binary, target/release/slash32. Static where the C library can be had so (Debian and Ubuntu have it
# in libc6-dev): it runs on any distribution, and as a plugin it starts in half the time, as there is no dynamic loader
# and nothing to relocate.
set -euo pipefail
flags=()
if [[ -e $(cc -print-file-name=libc.a) ]]; then
  flags=(-- -C target-feature=+crt-static -C relocation-model=static)
fi
exec cargo rustc --release --locked --package slash32 --bin slash32 "${flags[@]}"
