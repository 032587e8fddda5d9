# One word for each thing a person does with dunnage. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash -o pipefail

# An explicit target (see .cargo/config.toml) puts programs below the target triple's folder.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := target/$(HOST)/release
DEBUG := target/$(HOST)/debug

DESTDIR ?=
PREFIX ?= /usr/local
# Programs in the order of docs: what containerd starts first.
PROGRAMS := containerd-shim-dunnage-v1 dunnage dunnage-cni
PACKAGES := -p dunnage-shim -p dunnage-cli -p dunnage-cni
CARGO ?= cargo
# Pass arguments on: make e2e JOBS=1 ARGS='--no-capture', make bench ARGS='--rounds 200', make run ARGS='--help'.
ARGS ?=
# Of make e2e: a line of e2e/lines/lines. Of make e2e-vm and vm-shell: a file in e2e/vm/configs. Of both: which tests.
LINE ?=
CONFIG ?=
TEST ?=

.PHONY: help
help: ## list these words
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-10s %s\n", $$1, $$2 }'

.PHONY: build
build: ## build the programs that make install installs (release, static)
	$(CARGO) build --release --locked

.PHONY: run
run: build ## run the example pod with the embedded default, no containerd needed (root)
	$(CARGO) build --release --locked -p dunnage-example-hello
	install -D -m 0755 $(RELEASE)/hello examples/hello/rootfs/hello
	$(RELEASE)/dunnage pod run $(ARGS) examples/hello/pod.yaml

.PHONY: install
install: build ## put the programs into $(DESTDIR)$(PREFIX)/bin
	install -d $(DESTDIR)$(PREFIX)/bin
# A running shim's binary cannot be overwritten ("text file busy"): write beside it, then rename over it.
	@for program in $(PROGRAMS); do \
		install -m 0755 $(RELEASE)/$$program $(DESTDIR)$(PREFIX)/bin/.$$program.new && \
		mv -f $(DESTDIR)$(PREFIX)/bin/.$$program.new $(DESTDIR)$(PREFIX)/bin/$$program && \
		echo "installed $(DESTDIR)$(PREFIX)/bin/$$program"; \
	done

.PHONY: lint
lint: lint-fmt lint-tidy lint-clippy lint-doc lint-deny ## format, clippy, docs, import rules, licences: all as errors

.PHONY: lint-fmt
lint-fmt:
	$(CARGO) fmt --all --check

.PHONY: lint-tidy
lint-tidy:
	$(CARGO) test --locked -p dunnage-e2e --test tidy

.PHONY: lint-clippy
lint-clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

.PHONY: lint-doc
lint-doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

# Licences, sources and bans need no network. Advisories need a clone of RustSec's database: they are checked
# when one is cached. Building cargo-deny costs minutes, so a missing one does not fail the check: licences
# and sources are checked by tidy from the same deny.toml either way.
.PHONY: lint-deny
lint-deny:
	@if command -v cargo-deny >/dev/null; then \
		$(CARGO) deny --offline check licenses bans sources && \
		if [ -d "$${CARGO_HOME:-$$HOME/.cargo}/advisory-dbs" ]; then $(CARGO) deny --offline check advisories; \
		else echo "lint: NOTE advisories not checked: run 'cargo deny fetch' once"; fi; \
	else echo "lint: NOTE cargo-deny is not installed: advisories and bans not checked ('cargo install --locked cargo-deny')"; fi

.PHONY: test
test: unit e2e vm-quick ## unit and kernel tests of every crate, the e2e suite, seven of it in a virtual machine (root)

.PHONY: unit
unit: ## unit and kernel tests of every crate (root)
	$(CARGO) nextest run --workspace --exclude dunnage-e2e --locked --no-fail-fast $(ARGS)
	$(CARGO) nextest run -p dunnage-e2e --lib --locked
	$(CARGO) test --doc --workspace --exclude dunnage-e2e --locked

.PHONY: e2e
e2e: ## e2e suite on three lines of containerd side by side (root); LINE=1.6|1.7|2.1 TEST=regex RUNTIME=runc
	CARGO='$(CARGO)' ARGS='$(ARGS)' e2e/lines/run '$(LINE)' '$(TEST)'

.PHONY: e2e-vm
e2e-vm: ## e2e suite in virtual machines; CONFIG=trixie-v2|trixie-v2-systemd|bookworm-v2|bookworm-v1 TEST=regex FULL=1
	e2e/vm/run '$(CONFIG)' '$(TEST)'

.PHONY: vm-quick
vm-quick: ## seven tests on cgroup v2 with AppArmor in a virtual machine, as in make test
	@if command -v mmdebstrap >/dev/null; then e2e/vm/run trixie-v2 @quick; \
	else echo "test: NOTE nothing seen on cgroup v2: 'apt-get install mmdebstrap busybox-static binutils'"; fi

.PHONY: vm-shell
vm-shell: ## root shell in the virtual machine of CONFIG, with dunnage's programs in /payload/bin
	e2e/vm/run --shell '$(CONFIG)'

.PHONY: load
load: ## pods that live random lives, each answer checked (root); ARGS='--pods 8 --seconds 30 --seed N', RUNTIME=runc
	$(CARGO) build --locked $(PACKAGES)
	$(CARGO) build --locked -p dunnage-e2e --bins
	RUST_BACKTRACE=0 $(DEBUG)/load $(ARGS)

.PHONY: bench
bench: ## measure dunnage beside other shims, plugins and the kernel's floor (root); ARGS='--quick --measure net'
	$(CARGO) build --release --locked $(PACKAGES)
	$(CARGO) build --release --locked -p dunnage-e2e --bins
	$(CARGO) build --release --locked -p dunnage-net --example attach_cost
	RUST_BACKTRACE=0 $(RELEASE)/bench $(ARGS)

.PHONY: clean
clean: ## remove build products and caches
	$(CARGO) clean
	rm -rf e2e/cache examples/hello/rootfs
