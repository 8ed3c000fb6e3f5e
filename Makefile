# What can be done here:
#   make demo     a mesh in network namespaces of this machine, live
#   make test     unit and property tests, also of the portable build, then the simulator, then scenarios in network namespaces
#   make check    format, lints, documentation
#   make bench    meshnet beside tinc, WireGuard in user space, Nebula, and no tunnel: five minutes
#   make bench-micro   micro-benchmarks, compared with the committed figures
#   make cross    the build for AArch64 and ARMv7, checked; CROSS_TEST=1 runs unit tests there, too, emulated
#   make bench-faults  the same faults for meshnet, tinc, and Nebula, and what they cost
#   make scale    a thousand whole nodes in the simulator, and flooding among ten thousand
#   make soak     thirty daemons, a random fault every 20 s, for SOAK_SECONDS (20 minutes)
#   make fuzz     every fuzz target (or FUZZ_TARGETS) for FUZZ_SECONDS each
#   make mutants  changes to what is accepted, one at a time (or MUTANTS_ARGS): which of them does no test notice? Takes hours
# Each installs what it needs where it may (Debian or Ubuntu, as root), or says what to install.
# Namespaces need root or user namespaces.

CARGO ?= cargo
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(patsubst fuzz/fuzz_targets/%.rs,%,$(wildcard fuzz/fuzz_targets/*.rs))
BENCH_ARGS ?= --short
# Two scenarios at a time: more would measure each other on two cores.
NETNS_THREADS ?= 2
STACK_TESTS ?= stack_*
# Thirty daemons run for three minutes; 0 has ten of them run for forty seconds.
TEST_SOAK_SECONDS ?= 180
FIGURES := $(abspath $(TARGET))/figures.txt

SIMULATOR := $(patsubst tests/tests/%.rs,--test %,$(filter-out tests/tests/netns_% tests/tests/stack_%,$(wildcard tests/tests/*.rs)))

NETWORK := ip=iproute2 nft=nftables unshare=util-linux
PEERS := tincd=tinc wireguard-go=wireguard-go wg=wireguard-tools nebula=nebula
SCENARIOS := $(NETWORK) ping=iputils-ping iperf3=iperf3 ethtool=ethtool conntrack=conntrack miniupnpd=miniupnpd-nftables

.PHONY: demo test unit portable simulator scenarios test-stack full check cross deny bench bench-faults bench-micro fuzz mutants scale soak build release

demo: release
	@.ci/need $(NETWORK)
	@$(TARGET)/release/meshd demo $(DEMO_ARGS)

# Fast ones first, so that most mistakes show within two minutes.
test: unit portable simulator scenarios

unit:
	$(CARGO) test --workspace --exclude meshnet-tests --exclude meshnet-netlab --no-run
	.ci/rootly $(CARGO) test --workspace --exclude meshnet-tests --exclude meshnet-netlab --no-fail-fast
	$(CARGO) test -p meshnet-netlab --lib

# The build for targets without the fast ciphers' library: it says so in its key epochs, and others use the suite it has.
portable:
	$(CARGO) test -p meshnet --no-default-features --lib
	$(CARGO) check -p meshd --no-default-features

simulator:
	$(CARGO) test -p meshnet-tests --lib $(SIMULATOR) --no-fail-fast

# Those of the container stack say in the summary that they were not run where no engine can be had.
scenarios: release
	@.ci/need $(SCENARIOS)
	@.ci/need docker=docker.io dockerd=docker.io || true
	@rm -f $(FIGURES)
	$(CARGO) test -p meshnet-netlab -p meshnet-tests --test lab --test 'netns_*' --no-run
	.ci/rootly $(CARGO) test -p meshnet-netlab --test lab -- --test-threads=$(NETNS_THREADS)
	MESHD_BIN=$(abspath $(TARGET))/release/meshd MESHNET_FIGURES=$(FIGURES) MESHNET_SOAK=$(TEST_SOAK_SECONDS) \
	  .ci/rootly $(CARGO) test -p meshnet-tests --test 'netns_*' --no-fail-fast -- --test-threads=$(NETNS_THREADS)
	@echo; echo "Measured ($(FIGURES)):"; sort $(FIGURES)

# Real containers: needs root, Docker's engine, docker-registry, debootstrap, Ansible, and Debian's mirror for the images. One
# part at a time: STACK_TESTS=stack_galera (or stack_sites, stack_marathon, stack_zookeeper, stack_registry, stack_nodes,
# stack_machines).
test-stack: release
	@.ci/need $(SCENARIOS) docker=docker.io dockerd=docker.io debootstrap=debootstrap docker-registry=docker-registry ansible-playbook=ansible-core ssh-keygen=openssh-client
	MESHD_BIN=$(abspath $(TARGET))/release/meshd \
	  $(CARGO) test -p meshnet-tests --test '$(STACK_TESTS)' --no-fail-fast -- --ignored --nocapture --test-threads=1

# Everything as often and as fast as the project's claims say: ten million junk datagrams, floods of 100,000 of them and of
# 50,000 forged handshakes a second, `kill -9` at 20 moments of a plan.
full: export MESHNET_JUNK = 10000000
full: export MESHNET_FLOOD = 1
full: export MESHNET_SWEEP = 20
full: export MESHNET_ROTATIONS = 10
full: export MESHNET_RUNS = 5
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

cross:
	CARGO=$(CARGO) .ci/cross $(TARGET)/cross

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

# Outcomes are added to FAULTS_INTO after each, so that the comparison can be made in parts (FAULT_ARGS="--only tinc,direct_dark").
FAULT_ARGS ?= --runs 5
FAULTS_INTO ?= docs/benchmarks/faults.json
bench-faults: release
	@.ci/need $(NETWORK) tincd=tinc nebula=nebula
	$(CARGO) build --release -p meshnet-benches --bin bench
	.ci/rootly $(TARGET)/release/bench faults --into $(FAULTS_INTO) $(FAULT_ARGS)

# Some minutes, and 3 GB of memory for a thousand whole nodes.
SIMULATE := $(CARGO) run --quiet --profile scale -p meshnet-tests --bin simulate --
scale:
	$(SIMULATE) start 1000
	$(SIMULATE) change 400
	$(SIMULATE) spread 10000
	$(SIMULATE) idle 10000
	$(SIMULATE) memory 10000
	$(SIMULATE) flap 200

SOAK_SECONDS ?= 1200
soak: release
	@.ci/need $(NETWORK)
	MESHNET_SOAK=$(SOAK_SECONDS) MESHD_BIN=$(abspath $(TARGET))/release/meshd \
	  .ci/rootly $(CARGO) test -p meshnet-tests --test netns_soak -- --nocapture

# BENCH_ARGS=--save puts the new figures in the place of the committed ones.
bench-micro: BENCH_ARGS =
bench-micro:
	@.ci/need cc=gcc
	$(CARGO) run --release -p meshnet-benches --bin bench -- micro $(BENCH_ARGS)

# The sanitizers need a nightly compiler; where only a stable one is at hand, it is told to behave like one.
fuzz: export CARGO_PROFILE_RELEASE_LTO = off
fuzz: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS = 16
fuzz: export CARGO_PROFILE_RELEASE_OPT_LEVEL = 3
fuzz: export CARGO_PROFILE_RELEASE_DEBUG = line-tables-only
fuzz:
	@.ci/need cc=gcc c++=g++
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	cd fuzz && $(CARGO) run --quiet --example seed_corpus
	@cd fuzz && for target in $(FUZZ_TARGETS); do echo "== $$target"; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --features libfuzzer $$target -- -max_total_time=$(FUZZ_SECONDS) \
	  || exit 1; done

# .cargo/mutants.toml says where, docs/mutants.md what is known to survive.
mutants:
	@$(CARGO) mutants --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-mutants
	$(CARGO) mutants -p meshnet --output $(TARGET)/mutants $(MUTANTS_ARGS)

release:
	@.ci/need cc=gcc
	$(CARGO) build --release -p meshd
