# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. All that they make lies under build/; `make clean` removes it.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED := 0
# Without the tag signature policies cannot be evaluated, and are refused (internal/guest/signature says why there is one).
export GOFLAGS := $(strip $(GOFLAGS) -tags=containers_image_openpgp)
export NACRE_IMAGE_DIR := $(CURDIR)/build/image

GO          ?= go
GOFLAGS_BIN := -trimpath -buildvcs=false -ldflags "-s -w -buildid="
COMMANDS    := nacre nacre-trustee
LINT        := build/tools/golangci-lint
LINT_VERSION := v2.15.0
FUZZTIME    ?= 10s

.PHONY: help
help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: deps
deps: ## install the Debian packages that are missing (prints what; sudo only here)
	@tools/deps

.PHONY: build
build: deps image ## the programs, into build/bin, and the guest image
	@mkdir -p build/bin
	@for c in $(COMMANDS); do echo "build: $$c"; $(GO) build $(GOFLAGS_BIN) -o build/bin/$$c ./cmd/$$c; done

.PHONY: image
image: deps ## the guest image, into build/image (kernel, firmware, initramfs, root)
	@$(GO) run ./internal/guestos/build -out build/image -cache build/cache

.PHONY: demo
demo: build ## all set-up, then the story: a confidential pod, its secret, and thirteen attackers
	@build/bin/nacre demo --dir build/demo

.PHONY: test
test: build ## all set-up, then the tests (VM tests included)
	@tools/skopeo build/tools/skopeo
	PATH=$(CURDIR)/build/tools/skopeo/bin:$$PATH $(GO) test -timeout 20m ./...

RACE_PACKAGES ?= ./attest/... ./attester/... ./ear ./imagecrypt ./initdata ./internal/guest/... ./internal/transport \
	./internal/trustee/limit ./kbs ./policy ./sealed ./secret ./strictjson
.PHONY: race
race: deps ## the race detector over the packages where it is affordable
	CGO_ENABLED=1 $(GO) test -race -short -timeout 20m $(RACE_PACKAGES)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (default 10s)
	@tools/fuzz $(FUZZTIME)

.PHONY: mutants
mutants: ## remove each check behind an invariant in turn; exactly its attack must then succeed
	@$(GO) run ./test/mutants

.PHONY: bench
bench: build ## benchmarks against their floors: bench.json, and the table in the README
	@$(GO) build $(GOFLAGS_BIN) -o build/bin/nacre-floor ./internal/bench/floor/nacre-floor
	@build/bin/nacre bench floor --dir build/bench --simtee-dir build/bench-simtee -o bench.json --readme README.md

.PHONY: soak
soak: image ## kill -9 (200 rounds), then power loss (15 rounds), under load, judged by a model (about 15 minutes)
	@$(GO) run ./test/soak kill
	@$(GO) run ./test/soak power

.PHONY: lint
lint: $(LINT) ## golangci-lint
	@$(LINT) run ./...

$(LINT): Makefile
	@echo "lint: building golangci-lint $(LINT_VERSION)"
	@GOBIN=$(CURDIR)/build/tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)
	@touch $@

.PHONY: generate
generate: ## protobuf stubs and the pictures of the documentation
	$(GO) generate ./...

.PHONY: clean
clean: ## remove all that was built, and the state of the demo
	@chmod -R u+w build 2>/dev/null || true
	@rm -rf build bench.json
