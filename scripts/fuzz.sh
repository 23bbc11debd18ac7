#!/bin/sh
# Runs fuzz targets on everything that reads octets from outside (fuzz/entries.rs), one after another.
#
#   TIME=60         seconds for each target
#   TARGET=update   only this one
#
#   KEEP=1          write the small ones that are enough for all that was reached to fuzz/found/, which `make test` runs
#
# New inputs are kept in fuzz/target/inputs/, for the next run to go on with; what breaks a target in fuzz/artifacts/.
set -eu
cd "$(dirname "$0")/.."
time=${TIME:-60}

fail() {
	echo "make fuzz: $1" >&2
	exit 1
}

case $time in
'' | *[!0-9]* | 0) fail "TIME is a number of seconds, not \`$time\`" ;;
esac
command -v rustup >/dev/null || fail "libFuzzer needs a nightly compiler, and rustup to choose it: https://rustup.rs"
rustup toolchain list | grep -q '^nightly' ||
	fail "libFuzzer needs a nightly compiler: rustup toolchain install nightly --profile minimal"
cargo fuzz --version >/dev/null 2>&1 || fail "cargo-fuzz is missing: cargo install cargo-fuzz --locked"

all=$(cargo +nightly fuzz list)
targets=${TARGET:-$all}
for target in $targets; do
	echo "$all" | grep -qx "$target" || fail "there is no target \`$target\`; there are: $(echo $all)"
done

broken=
for target in $targets; do
	echo "== $target, $time s"
	mkdir -p "fuzz/target/inputs/$target"
	# What earlier runs found, a line each.
	[ ! -f "fuzz/found/$target.hex" ] || python3 - "fuzz/found/$target.hex" "fuzz/target/inputs/$target" <<-'EOF'
		import hashlib, pathlib, sys
		for line in open(sys.argv[1]):
		    octets = bytes.fromhex(line)
		    pathlib.Path(sys.argv[2], hashlib.sha1(octets).hexdigest()).write_bytes(octets)
	EOF
	# Longer than any message; captures and dumps hold several.
	cargo +nightly fuzz run "$target" "fuzz/target/inputs/$target" "fuzz/corpus/$target" -- \
		-max_total_time="$time" -max_len=16384 -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 || broken="$broken $target"
	[ -n "${KEEP:-}" ] || continue
	rm -rf "fuzz/target/merged/$target" && mkdir -p "fuzz/target/merged/$target"
	cargo +nightly fuzz run "$target" "fuzz/target/merged/$target" "fuzz/target/inputs/$target" "fuzz/corpus/$target" -- \
		-set_cover_merge=1 -max_len=4096 >/dev/null 2>&1
	python3 - "fuzz/target/merged/$target" "fuzz/found/$target.hex" <<-'EOF'
		import pathlib, sys
		inputs = {file.read_bytes() for file in pathlib.Path(sys.argv[1]).iterdir()}
		small = sorted((i for i in inputs if 0 < len(i) <= 160), key=lambda i: (len(i), i))
		pathlib.Path(sys.argv[2]).write_text("".join(i.hex() + "\n" for i in small))
	EOF
done
[ -z "$broken" ] || fail "broken:$broken; inputs are in fuzz/artifacts/, copy small ones to fuzz/corpus/ with the fix"
