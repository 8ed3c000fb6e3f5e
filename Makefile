# What can be done here:
#   make demo     a mesh in network namespaces of this machine, live
#   make test     unit and property tests, also of the portable build, then the simulator, then scenarios in network namespaces
#   make check    format, lints, documentation
#   make bench    meshnet beside tinc, WireGuard in user space, Nebula, and no tunnel: five minutes
#   make bench-micro   micro-benchmarks, compared with the committed figures
#   make fuzz     every fuzz target (or FUZZ_TARGETS) for FUZZ_SECONDS each
# Each installs what it needs where it may (Debian or Ubuntu, as root), or says what to install.
# Namespaces need root or user namespaces.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))
BENCH_ARGS ?= --short
# Two scenarios at a time: more would measure each other on two cores.
NETNS_THREADS ?= 2
FIGURES := $(abspath $(TARGET))/figures.txt

SIMULATOR := $(patsubst tests/tests/%.rs,--test %,$(filter-out tests/tests/netns_% tests/tests/stack_%,$(wildcard tests/tests/*.rs)))

NETWORK := ip=iproute2 nft=nftables unshare=util-linux
PEERS := tincd=tinc wireguard-go=wireguard-go wg=wireguard-tools nebula=nebula
SCENARIOS := $(NETWORK) iperf3=iperf3 ethtool=ethtool conntrack=conntrack

.PHONY: demo test unit portable simulator scenarios test-stack full check deny bench bench-micro fuzz build release

demo: release
	@.ci/need $(NETWORK)
	@$(TARGET)/release/meshd demo $(DEMO_ARGS)

# Fast ones first, so that most mistakes show within two minutes.
test: unit portable simulator scenarios

unit:
	$(CARGO) test --workspace --exclude meshnet-tests --exclude meshnet-netlab --no-run
	.ci/rootly $(CARGO) test --workspace --exclude meshnet-tests --exclude meshnet-netlab
	$(CARGO) test -p meshnet-netlab --lib
	cd fuzz && $(CARGO) test --locked

# The build for targets without the fast ciphers' library: it says so in its key epochs, and others use the suite it has.
portable:
	$(CARGO) test -p meshnet --no-default-features --lib
	$(CARGO) check -p meshd --no-default-features

simulator:
	$(CARGO) test -p meshnet-tests --lib $(SIMULATOR)

scenarios: release
	@.ci/need $(SCENARIOS)
	@rm -f $(FIGURES)
	$(CARGO) test -p meshnet-netlab -p meshnet-tests --test lab --test 'netns_*' --no-run
	.ci/rootly $(CARGO) test -p meshnet-netlab --test lab -- --test-threads=$(NETNS_THREADS)
	MESHD_BIN=$(abspath $(TARGET))/release/meshd MESHNET_FIGURES=$(FIGURES) \
	  .ci/rootly $(CARGO) test -p meshnet-tests --test 'netns_*' --no-fail-fast -- --test-threads=$(NETNS_THREADS)
	@echo; echo "Measured ($(FIGURES)):"; sort $(FIGURES)

# Real containers: needs root, Docker's engine, docker-registry, debootstrap, Ansible, and Debian's mirror for the images.
test-stack: release
	@.ci/need $(SCENARIOS) docker=docker.io dockerd=docker.io debootstrap=debootstrap docker-registry=docker-registry ansible-playbook=ansible-core
	MESHD_BIN=$(abspath $(TARGET))/release/meshd \
	  $(CARGO) test -p meshnet-tests --test 'stack_*' -- --ignored --nocapture --test-threads=1

# Everything as often as the project's claims say: ten million junk datagrams, `kill -9` at 20 moments of a plan.
full: export MESHNET_JUNK = 10000000
full: export MESHNET_SWEEP = 20
full: test

check:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --workspace --no-deps --document-private-items
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(MAKE) --no-print-directory deny; \
	 else echo "cargo-deny is not installed: \`make deny\` installs it and checks licences and advisories"; fi

deny:
	@$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

# A peer that cannot be had is reported as absent. Newer releases than the distribution's are fetched, not installed.
# A whole run that can be quoted replaces the committed figures and their part of docs/benchmarks.md.
bench: release
	@.ci/need $(NETWORK) iperf3=iperf3
	@for peer in $(PEERS); do .ci/need $$peer || true; done
	@.ci/newest $(TARGET)/peers/newest || true
	@for crate in boringtun-cli gotatun-cli; do $(CARGO) install --quiet --locked --root $(TARGET)/peers $$crate || true; done
	$(CARGO) build --release -p meshnet-benches --bin bench
	.ci/rootly $(TARGET)/release/bench --programs $(TARGET)/peers/newest --programs $(TARGET)/peers/bin --so-far $(TARGET)/bench-so-far.json \
	  --out docs/benchmarks $(BENCH_ARGS)
	$(TARGET)/release/bench report docs/benchmarks/results.json --into docs/benchmarks.md

# BENCH_ARGS=--save puts the new figures in the place of the committed ones.
bench-micro: BENCH_ARGS =
bench-micro:
	@.ci/need cc=gcc
	$(CARGO) run --release -p meshnet-benches --bin bench -- micro $(BENCH_ARGS)

# The sanitizers need a nightly compiler; where only a stable one is at hand, it is told to behave like one.
fuzz:
	@.ci/need cc=gcc c++=g++
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	cd fuzz && $(CARGO) run --quiet --locked --example seed_corpus
	@cd fuzz && for target in $(FUZZ_TARGETS); do echo "== $$target"; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --features libfuzzer $$target -- -max_total_time=$(FUZZ_SECONDS) \
	  || exit 1; done

release:
	@.ci/need cc=gcc
	$(CARGO) build --release -p meshd
