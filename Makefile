# The commands to know. All but `build` need root: they make network namespaces.

SWITCH ?= slash32
export SWITCH

.PHONY: help build demo test test-unit interop sim bench-cni bench-bgp bench-fib bench-policy soak fuzz format

help:                ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

build:               ## the release binary, target/release/slash32
	@scripts/deps.sh build
	@scripts/release.sh

demo:                ## a switch, two hosts, four containers, a policy; SWITCH=bird|frr|gobgp, KEEP=1 to look around
	@scripts/deps.sh build demo $(SWITCH)
	@scripts/release.sh
	@cargo build --release --locked --package interop-tests --bin demo --bin lab-tool
	@target/release/demo --switch $(SWITCH) $(if $(KEEP),--keep)

test:                ## everything: format, lints, unit tests, other people's routers
	@scripts/test.sh

test-unit:           ## the tests of the crate alone
	cargo test --locked --package slash32

interop:             ## routers x cases in containers, into RESULTS.md; ROUTER=frr CASE=bfd for some, TEST=name for a Rust test (cnitool needs Go)
	@scripts/deps.sh test
ifdef TEST
	cargo test --locked --package interop-tests -- --include-ignored $(TEST)
else
	@scripts/release.sh
	@cargo build --release --locked --package interop-tests --bin interop --bin lab-tool
	@target/release/interop $(if $(ROUTER),--router $(ROUTER)) $(if $(CASE),--case $(CASE)) $(if $(WRITE),--write)
endif

bench-cni:           ## ADD and DEL beside ptp + host-local, packets beside other paths; memory; size
	@scripts/deps.sh build demo bench
	@scripts/release.sh
	@cargo build --release --locked --package interop-tests --bin bench-cni --bin lab-tool
	@target/release/bench-cni

bench-bgp:           ## reflecting, churn with BFD and 500 neighbours, beside BIRD, FRR, GoBGP; IMAGES=1 for BIRD 3 and GoBGP 3.36 too
	@scripts/deps.sh build demo bird frr gobgp
	@cargo build --release --locked --package slash32 --package interop-tests --bin slash32 --bin bench_bgp
	@scripts/bench-bgp.sh $(if $(IMAGES),--images)

sim:                 ## whole networks from many seeds; SEEDS=500, FIRST=0, HOSTS=50, LARGE=300; SEED=7 for one with a trace
	SEEDS=$${SEEDS:-500} LARGE=$${LARGE:-300} cargo test --release --locked --package slash32 --test simulation -- --nocapture

bench-fib:           ## routes into the kernel beside BIRD and FRR, a dying switch, lost packets
	@scripts/deps.sh build demo bird frr
	@cargo build --release --locked --package slash32 --package interop-tests --bin slash32 --bin bench_fib --bin lab-tool
	@cargo bench --quiet --locked --bench fib -- 100000 5
	@target/release/bench_fib load --routes 100000 --runs 3
	@target/release/bench_fib load --routes 100000 --runs 3 --family ipv6
	@# Without FRR, which takes 12 s a run for a million; `bench_fib load --routes 1000000` measures it too.
	@target/release/bench_fib load --routes 1000000 --runs 3 --routers slash32,bird2,bird3
	@target/release/bench_fib failover
	@target/release/bench_fib failover --family ipv6
	@target/release/bench_fib loss

bench-policy:        ## what policies cost: packets, changes, loading; beside no rules and nft -f; PART=packet, stream, endpoint, remote, load or update for one
	@scripts/deps.sh build test
ifneq ($(PART),update)
	@cargo bench --locked --package slash32 --bench policy $(if $(PART),-- $(PART))
endif
ifneq ($(filter update,$(or $(PART),update)),)
	@scripts/release.sh
	@cargo build --release --locked --package interop-tests --bin bench-members --bin lab-tool
	@target/release/bench-members
endif

soak:                ## 10,000 changes under traffic: nothing wrongly passed or dropped; CHANGES=n, SEED=n for others
	@scripts/deps.sh build test
	SLASH32_SOAK=$(or $(CHANGES),10000) SLASH32_SOAK_SEED=$(or $(SEED),1) cargo test --locked --package slash32 --lib policy::packet_tests::soak -- --nocapture

fuzz:                ## libFuzzer on all that reads octets from outside; TIME=60 seconds each, TARGET=update for one, KEEP=1 to store what is new; needs nightly
	@scripts/fuzz.sh

format:              ## rustfmt
	cargo fmt --all
