#!/bin/bash
# All checks and tests, with the time each step took, and the counts at the end. See `make help`.
set -uo pipefail
cd "$(dirname "$0")/.."
log=target/test.log
mkdir -p target
: >"$log"

if (( $(id -u) )); then
  echo "tests make network namespaces: run as root (sudo -E make test)" >&2
  exit 1
fi

failed=()
step() {
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s: %s\n' "$name" "$*"
  if "$@" 2>&1 | tee -a "$log"; then
    printf '== %s: ok (%d s)\n' "$name" $((SECONDS - start))
  else
    printf '== %s: FAILED (%d s)\n' "$name" $((SECONDS - start))
    failed+=("$name")
  fi
}

step packages scripts/deps.sh test
step format cargo fmt --all --check
step lints cargo clippy --workspace --all-targets --locked -- -D warnings
if command -v cargo-deny >/dev/null; then
  step licences cargo deny --all-features check
else
  printf '\n== licences: cargo-deny is not installed: a test checks the licences, advisories are not checked (cargo install cargo-deny)\n'
fi
step build cargo build --workspace --all-targets --locked
export SLASH32_BIN=$PWD/target/debug/slash32
# Always the whole workspace: a part of it would select other features and compile everything again.
step unit cargo test --workspace --lib --bins --locked --no-fail-fast
step integration cargo test --workspace --test "*" --locked --no-fail-fast
step documentation cargo test --workspace --doc --locked
# The fast subset of the table in interop-tests/RESULTS.md. Images are built once and stay in podman's storage.
step matrix target/debug/interop --fast

# cargo prints one such line for each test program.
counts=$(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { printf "%d passed; %d failed; %d ignored", p, f, i }' "$log")
printf '\n'
if (( ${#failed[@]} )); then
  printf 'FAILED: %s. %s in %d s\n' "${failed[*]}" "$counts" "$SECONDS"
  exit 1
fi
printf 'all steps ok. %s in %d s\n' "$counts" "$SECONDS"
