# Threshold. "make" alone lists the targets.

GO       ?= go
FUZZTIME ?= 10s
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

PROGRAMS := $(notdir $(patsubst %/,%,$(wildcard cmd/*/)))
TOOL     := $(GO) tool -modfile=tools.mod
# -buildvcs=false: the version is stamped here, also where go cannot read the repository.
BUILD    := CGO_ENABLED=0 $(GO) build -buildvcs=false -trimpath -ldflags "-s -w -X main.version=$(VERSION)"

# The agent speaks HTTP/1.1 alone. What would speak HTTP/2 took 0.5 MB of its file and 0.4 MB of its memory.
AGENT := -tags nethttpomithttp2

.DEFAULT_GOAL := help
.NOTPARALLEL: # go uses every core itself, and setup must be done before anything else begins
.PHONY: help demo build check deb compatibility test setup lint unit integration dex errors schema vuln fuzz bench clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

demo: build ## build, then run a whole cluster on 127.0.0.1:8443 until Ctrl-C (DEMO_FLAGS="--data DIR --listen ADDR")
	@exec bin/threshold-demo $(DEMO_FLAGS)

build: ## build every program into bin/
	@command -v $(GO) >/dev/null || { echo "Go is missing; on Debian this installs it: .ci/setup go" >&2; exit 1; }
	@mkdir -p bin
	$(BUILD) -o bin/ $(addprefix ./cmd/,$(filter-out threshold-node,$(PROGRAMS)))
	$(BUILD) $(AGENT) -o bin/ ./cmd/threshold-node

# A Debian version begins with a digit and has no hyphen of its own: v1.2.3 is 1.2.3, and what has no tag sorts before every release.
export DEB_VERSION := $(subst -,+,$(if $(filter v0% v1% v2% v3% v4% v5% v6% v7% v8% v9%,$(VERSION)),$(VERSION:v%=%),0~$(VERSION)))
DEB_ARCHES  ?= amd64 arm64
DEB_PACKAGES ?= threshold threshold-node threshold-tsh

deb: ## build the Debian packages of server, agent and client into dist/ (DEB_ARCHES="amd64 arm64")
	@mkdir -p dist/completion
	for arch in $(DEB_ARCHES); do \
		mkdir -p dist/$$arch; \
		for package in $(DEB_PACKAGES:threshold-tsh=tsh); do \
			tags=; [ $$package != threshold-node ] || tags="$(AGENT)"; \
			GOARCH=$$arch $(BUILD) $$tags -o dist/$$arch/ ./cmd/$$package || exit 1; done; done
	for shell in bash zsh fish; do $(GO) run -buildvcs=false ./cmd/tsh completion $$shell >dist/completion/tsh.$$shell || exit 1; done
	for arch in $(DEB_ARCHES); do for package in $(DEB_PACKAGES); do \
		ARCH=$$arch $(TOOL) nfpm package --packager deb --config deploy/nfpm-$$package.yaml --target dist/ || exit 1; done; done

check: lint ## lint and unit tests without the race detector: the loop to work in
	$(GO) test -count=1 -timeout 5m ./...

test: setup lint unit integration dex ## the whole suite: setup, lint, unit tests with the race detector, integration with real binaries

setup: ## install what the tests need and is missing (Debian; as root or with sudo)
	@.ci/setup

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$($$($(GO) env GOROOT)/bin/gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w is due on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags integration ./...
	$(TOOL) staticcheck -tags integration ./...

unit: ## unit tests with the race detector, in random order
	$(GO) test -race -shuffle=on -timeout 10m ./...

integration: build ## drive the real binaries, OpenSSH and a browser
	$(GO) test -count=1 -tags integration -parallel 4 -timeout 15m ./integration/...

compatibility: build ## try every client and write docs/compatibility.md as it went
	$(GO) test -count=1 -tags integration -timeout 5m -run '^TestCommonClientsWork$$' ./integration -update

dex: build ## log in with dex, an identity provider that is not ours
	cd integration/dex && $(GO) test -count=1 -timeout 10m ./...

errors: ## write docs/errors.md from the declarations of error codes
	$(GO) test -count=1 -run '^TestTheErrorsPageIsCurrent$$' ./internal/repocheck -update

schema: ## write docs/audit.schema.json from the registry of audit events
	$(GO) test -count=1 -run '^TestTheSchemaIsCurrent$$' ./internal/audit -update

vuln: ## look up known vulnerabilities of what is linked (needs the network)
	$(TOOL) govulncheck ./...

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@set -e; grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's/:func / /' | sort | while read -r file target; do \
		echo "$$(dirname $$file) $$target"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname $$file)"; \
	done

bench: build ## run every benchmark; those side by side with OpenSSH come first and go into docs/benchmarks.md
	$(GO) test -tags integration -run '^$$' -bench . -timeout 30m ./integration -args -figures=$(CURDIR)/docs/benchmarks.md
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./...

clean: ## remove what was built
	rm -rf bin dist
