# Everything that is done with this repository by hand or by CI.

GO            ?= go
BIN           := $(CURDIR)/bin
GOLANGCI      := $(BIN)/golangci-lint
GOLANGCI_VERSION := v2.15.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS       := -s -w -X main.version=$(VERSION)
TEST_FLAGS    ?=
FUZZ_TIME     ?= 30s
SOAK_RUNS     ?= 20
CRASH_SWEEP   ?= 20
BENCH_FLAGS   ?=

.DEFAULT_GOAL := help

.PHONY: help
help: ## print this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: test
test: deps ## vet and run every test with the race detector, against real servers (installs what is missing)
	$(GO) vet ./...
	$(GO) test -race -p 2 -timeout 20m $(TEST_FLAGS) ./...

.PHONY: deps
deps: ## install what the tests need: redis-server, a C compiler, Node and the JavaScript SDK
	@./scripts/install-test-deps.sh

.PHONY: lint
lint: $(GOLANGCI) ## run golangci-lint, pinned and built from source into ./bin
	$(GOLANGCI) run ./...

$(GOLANGCI): Makefile
	GOBIN=$(BIN) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@touch $@

.PHONY: fmt
fmt: $(GOLANGCI) ## format the code
	$(GOLANGCI) fmt ./...

.PHONY: build
build: ## build the static binary bin/consultd
	CGO_ENABLED=0 $(GO) build -trimpath -tags timetzdata -ldflags '$(LDFLAGS)' -o $(BIN)/consultd ./cmd/consultd

.PHONY: run
run: ## start everything local: brokers, Redis, a PubNub stand-in, the daemon and a simulated clinic
	$(GO) run ./cmd/devstack

.PHONY: docs
docs: ## write the generated documents anew: docs/config.md, docs/states.md
	$(GO) test ./config -run '^TestDocs$$' -count=1 -update
	$(GO) test ./states -run '^TestStatesDocumentIsFresh$$' -count=1 -update

.PHONY: bench
bench: deps ## measure consultd against the bare pipeline (BENCH_FLAGS=-visits=500 for a short look)
	$(GO) run ./test/bench $(BENCH_FLAGS)

.PHONY: fuzz
fuzz: ## run every fuzz test for FUZZ_TIME each
	@./scripts/fuzz.sh $(FUZZ_TIME)

.PHONY: crash
crash: deps ## kill the daemon at each of the first CRASH_SWEEP passages of every crash point (make test: at two of each)
	$(GO) test -count=1 -timeout 3h $(TEST_FLAGS) ./test/crash -sweep=$(CRASH_SWEEP)

.PHONY: soak
soak: deps ## run the end-to-end tests SOAK_RUNS times over, stopping at the first failure
	$(GO) test -race -failfast -count=$(SOAK_RUNS) -timeout 12h $(TEST_FLAGS) ./test/...

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN)
