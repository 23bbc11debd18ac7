#!/bin/bash
# The speaker beside other people's routers: Markdown on stdout, progress on stderr. See `make bench-bgp`.
set -euo pipefail
cd "$(dirname "$0")/.."
routers=bird,slash32,frr,gobgp
if [[ ${1:-} == --images ]]; then
  interop-tests/images/build.sh bird3 gobgp >&2
  routers=bird,slash32,bird3,frr,gobgp3
fi
bench=target/release/bench_bgp
for shape in "4 1" "4 10000" "10 1" "10 10000"; do
  read -r feeders sets <<<"$shape"
  # GoBGP takes half a minute for each of these: the small one says enough.
  only=$routers
  [[ $shape == "4 1" ]] || only=${routers/,gobgp3/} only=${only/,gobgp/}
  "$bench" --routers "$only" --feeders "$feeders" --routes 100000 --attribute-sets "$sets" --runs "${RUNS:-3}"
done
"$bench" --mode churn --routers bird,slash32 --routes 100000 --seconds 30 --runs 1
"$bench" --mode peers --routers bird,slash32 --feeders 500 --runs "${RUNS:-3}"
