# The targets people and the build machine use. `make help` lists them.

SHELL := /bin/bash
GO    ?= go

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)

GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
VULN     := golang.org/x/vuln/cmd/govulncheck@v1.9.0

FUZZTIME ?= 30s
SOAKSECONDS ?= 14400

.PHONY: help build demo test test-short lint vuln generate fuzz soak scale package clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

build: ## bin/wanpair and bin/wanbench, static, with the version stamped
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/wanpair ./cmd/wanbench

demo: build ## two gateways over an emulated link, real data, the gain live; DEMO_STAY=1 keeps them running
	bin/wanbench demo

test: ## all tests; as root it first installs what they need
	.ci/test

test-short: ## the tests that need neither root nor a network namespace
	.ci/test short

lint: ## the pinned linter
	$(GO) run $(GOLANGCI) run ./...

vuln: ## known faults of what is linked in
	$(GO) run $(VULN) ./...

generate: ## remake generated documents
	$(GO) generate ./...

fuzz: ## every fuzz target for FUZZTIME each
	.ci/fuzz $(FUZZTIME)

soak: build ## hours of mixed traffic with faults; stops at the first wrong byte, goes on where it was interrupted
	@mkdir -p dist
	bin/wanbench chaos --seconds $(SOAKSECONDS) --state dist/soak.state --json dist/soak.json --html dist/soak.html

scale: ## as root: 2,000 new connections a second for a minute, none lost; 10,000 idle ones, their memory and processor time; shares of classes
	PATH=$$PATH:/usr/sbin:/sbin WANPAIR_SOAK=1 WANPAIR_REQUIRE_ROOT=1 $(GO) test -count=1 -v -timeout 30m -run 'TestNewConnectionsPerSecond|TestIdleFlowsAreSmall|TestClassesGetTheirShares' ./bench/pair

package: build ## dist/*.deb and dist/*.rpm
	deploy/package/build bin/wanpair dist

clean: ## remove what the targets above made
	rm -rf bin dist
