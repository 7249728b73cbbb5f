# Each target sets up all that it needs and is quick the second time. Python 3.11 to 3.13 for all of them; Go too for
# `test`, `check`, `bench` and `conformance`, which compile Rego. Tools land in a cache outside the tree.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/exequatur
OPA_VERSION := 1.22.0
GHZ_VERSION := 0.121.0
CADDY_VERSION := 2.11.9
REGISTRY_VERSION := 3.1.2
ORAS_VERSION := 1.2.3
HELM_VERSION := 4.3.1
HELM_3_VERSION := 3.22.0
KUBE_SCORE_VERSION := 1.20.0
PROMTOOL_VERSION := 2.42.0
ETCD_VERSION := 3.7.3
KUBERNETES_VERSION := 1.36.3
export EXEQUATUR_OPA ?= $(CACHE)/bin/opa-$(OPA_VERSION)
# A web server, a registry and its client: real ones, for bundles that come from afar.
export EXEQUATUR_CADDY ?= $(CACHE)/bin/caddy-$(CADDY_VERSION)
export EXEQUATUR_REGISTRY ?= $(CACHE)/bin/registry-$(REGISTRY_VERSION)
export EXEQUATUR_ORAS ?= $(CACHE)/bin/oras-$(ORAS_VERSION)
# What reads, scores and installs the chart, and the control plane that takes it.
export EXEQUATUR_HELM ?= $(CACHE)/bin/helm-$(HELM_VERSION)
export EXEQUATUR_HELM_3 ?= $(CACHE)/bin/helm-$(HELM_3_VERSION)
export EXEQUATUR_KUBE_SCORE ?= $(CACHE)/bin/kube-score-$(KUBE_SCORE_VERSION)
export EXEQUATUR_PROMTOOL ?= $(CACHE)/bin/promtool-$(PROMTOOL_VERSION)
export EXEQUATUR_ETCD ?= $(CACHE)/bin/etcd-$(ETCD_VERSION)
export EXEQUATUR_KUBE_APISERVER ?= $(CACHE)/bin/kube-apiserver-$(KUBERNETES_VERSION)
SERVERS = $(EXEQUATUR_CADDY) $(EXEQUATUR_REGISTRY) $(EXEQUATUR_ORAS)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PROTOS := $(shell find proto -name '*.proto')

.PHONY: help demo test check chart image cluster bench conformance protos generated lock bundles system clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo ## Run it all on this machine: ledger, decision point, sidecar, a real MCP server and client
	@$(BIN)/exequatur demo

test: $(VENV)/.dev $(EXEQUATUR_OPA) $(SERVERS) $(EXEQUATUR_HELM) system ## Run the tests
	$(BIN)/python -m pytest -m "not bench and not conformance and not cluster and not image" --ignore tests/charts \
	  --ignore tests/conformance -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.dev chart ## Lint, type-check, keep the layers, hold the stubs against the protos, check the chart
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy exequatur pdp sidecar ledger injector
	$(BIN)/lint-imports --no-logo
	cd proto && ../$(BIN)/buf lint
	@rm -rf $(VENV)/stubs && mkdir -p $(VENV)/stubs && $(call protoc,$(VENV)/stubs)
	@diff -ru --exclude=__pycache__ --exclude=__init__.py $(VENV)/stubs/exequatur/v1 exequatur/v1 \
	  || { echo 'the stubs are not what the protos make: run `make protos`'; exit 1; }
	@echo "all checks passed"

chart: $(VENV)/.dev $(EXEQUATUR_HELM) $(EXEQUATUR_KUBE_SCORE) $(EXEQUATUR_PROMTOOL) ## Render the chart and check it, and the image's recipe
	$(BIN)/hadolint -c .hadolint.yaml Dockerfile
	$(BIN)/python -m pytest tests/charts -m "not cluster" -n 2 $(ARGS)

image: $(VENV)/.dev ## Do the image's steps in a clean root, without an engine, and run what they made
	$(BIN)/python -m pytest tests/images -m image $(ARGS)

cluster: $(VENV)/.dev $(EXEQUATUR_OPA) $(EXEQUATUR_HELM) $(EXEQUATUR_HELM_3) $(EXEQUATUR_ETCD) $(EXEQUATUR_KUBE_APISERVER) system ## Install the chart in a real control plane
	@command -v kubectl >/dev/null || { echo 'error: kubectl is needed: install it from your packages'; exit 1; }
	$(BIN)/python -m pytest -m cluster $(ARGS)

bench: $(VENV)/.dev $(EXEQUATUR_OPA) $(CACHE)/bin/ghz-$(GHZ_VERSION) system ## Measure, as ratios within one run
	EXEQUATUR_GHZ=$(CACHE)/bin/ghz-$(GHZ_VERSION) PYTHONPATH=tests/support $(BIN)/python tests/bench/run.py $(ARGS)
	PYTHONPATH=tests/support $(BIN)/python tests/bench/swaps.py
	PYTHONPATH=tests/support $(BIN)/python tests/bench/sizing.py
	EXEQUATUR_GHZ=$(CACHE)/bin/ghz-$(GHZ_VERSION) PYTHONPATH=tests/support $(BIN)/python tests/bench/stores.py

conformance: $(VENV)/.dev $(EXEQUATUR_OPA) $(SERVERS) system ## Run others' test cases (EXEQUATUR_CONFORMANCE_DIR says where they are)
	$(BIN)/python -m pytest -m conformance $(ARGS)

protos: $(VENV)/.dev ## Make the stubs again
	$(call protoc,.)

generated: $(VENV)/.dev ## Write again what is made from code: settings' schemas, pages of docs
	$(BIN)/python docs/generate.py

lock: ## Lock the dependencies again, with hashes, for every supported Python
	@test -x $(CACHE)/uv/bin/uv || { $(PYTHON) -m venv $(CACHE)/uv && $(CACHE)/uv/bin/pip -q install uv==0.13.8; }
	for extra in demo dev image build; do $(CACHE)/uv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	  --extra $$extra pyproject.toml -o requirements/$$extra.txt --no-header --no-emit-package exequatur; done

bundles: $(VENV)/.dev $(EXEQUATUR_OPA) ## Build and sign the development bundles again
	$(BIN)/python bundles/rebuild.py

clean: ## Remove what was made in the tree
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

define protoc
$(BIN)/python -m grpc_tools.protoc -I proto --python_out=$(1) --grpc_python_out=$(1) --mypy_out=quiet:$(1) \
  --mypy_grpc_out=quiet:$(1) --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
  --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc $(PROTOS)
endef

$(VENV)/bin/python:
	@test -n "$(PYTHON)" && "$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo 'error: Python 3.11, 3.12 or 3.13 is needed: install one, or name it with PYTHON=...'; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.demo: requirements/demo.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing what it needs into $(VENV) ..."
	@$(BIN)/pip -q install --require-hashes -r requirements/demo.txt
	@$(BIN)/pip -q install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.demo
	@$(BIN)/pip -q install --require-hashes -r requirements/dev.txt
	@touch $@

# A program in Go, built once, in the very versions that its own module names.
$(CACHE)/bin/opa-$(OPA_VERSION): MODULE := github.com/open-policy-agent/opa@v$(OPA_VERSION)
$(CACHE)/bin/ghz-$(GHZ_VERSION): MODULE := github.com/bojand/ghz@v$(GHZ_VERSION)
$(CACHE)/bin/ghz-$(GHZ_VERSION): COMMAND := ./cmd/ghz
$(CACHE)/bin/caddy-$(CADDY_VERSION): MODULE := github.com/caddyserver/caddy/v2@v$(CADDY_VERSION)
$(CACHE)/bin/caddy-$(CADDY_VERSION): COMMAND := ./cmd/caddy
$(CACHE)/bin/registry-$(REGISTRY_VERSION): MODULE := github.com/distribution/distribution/v3@v$(REGISTRY_VERSION)
$(CACHE)/bin/registry-$(REGISTRY_VERSION): COMMAND := ./cmd/registry
$(CACHE)/bin/oras-$(ORAS_VERSION): MODULE := oras.land/oras@v$(ORAS_VERSION)
$(CACHE)/bin/oras-$(ORAS_VERSION): COMMAND := ./cmd/oras
$(CACHE)/bin/helm-$(HELM_VERSION): MODULE := helm.sh/helm/v4@v$(HELM_VERSION)
$(CACHE)/bin/helm-$(HELM_VERSION): COMMAND := ./cmd/helm
$(CACHE)/bin/helm-$(HELM_3_VERSION): MODULE := helm.sh/helm/v3@v$(HELM_3_VERSION)
$(CACHE)/bin/helm-$(HELM_3_VERSION): COMMAND := ./cmd/helm
$(CACHE)/bin/kube-score-$(KUBE_SCORE_VERSION): MODULE := github.com/zegl/kube-score@v$(KUBE_SCORE_VERSION)
$(CACHE)/bin/kube-score-$(KUBE_SCORE_VERSION): COMMAND := ./cmd/kube-score
$(CACHE)/bin/opa-$(OPA_VERSION) $(CACHE)/bin/ghz-$(GHZ_VERSION) $(CACHE)/bin/caddy-$(CADDY_VERSION) \
$(CACHE)/bin/registry-$(REGISTRY_VERSION) $(CACHE)/bin/oras-$(ORAS_VERSION) $(CACHE)/bin/helm-$(HELM_VERSION) \
$(CACHE)/bin/kube-score-$(KUBE_SCORE_VERSION) $(CACHE)/bin/helm-$(HELM_3_VERSION):
	@command -v go >/dev/null || { echo 'error: Go is needed to build $(@F): install it from your packages'; exit 1; }
	@echo "building $(@F) into $(@D) (once, a minute or two) ..."
	@mkdir -p $(@D)
	@folder=$$(go mod download -json $(MODULE) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') && test -n "$$folder" \
	  && cd "$$folder" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -o $@.tmp $(or $(COMMAND),.)
	@mv $@.tmp $@

# These name parts of themselves by folders beside them, which only their own repository has: so they are built from a
# module of ours that requires them, with each part in the version that belongs to it.
$(CACHE)/bin/etcd-$(ETCD_VERSION):
	@command -v go >/dev/null || { echo 'error: Go is needed to build $(@F): install it from your packages'; exit 1; }
	@echo "building $(@F) into $(@D) (once, a minute or two) ..."
	@mkdir -p $(@D) && rm -rf $@.src && mkdir $@.src
	@cd $@.src && go mod init exequatur.test/etcd 2>/dev/null && go mod edit -require go.etcd.io/etcd/server/v3@v$(ETCD_VERSION) \
	  && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -o $@.tmp go.etcd.io/etcd/server/v3
	@rm -rf $@.src && mv $@.tmp $@

$(CACHE)/bin/kube-apiserver-$(KUBERNETES_VERSION):
	@command -v go >/dev/null || { echo 'error: Go is needed to build $(@F): install it from your packages'; exit 1; }
	@echo "building $(@F) into $(@D) (once, some minutes) ..."
	@mkdir -p $(@D) && rm -rf $@.src && mkdir $@.src
	@folder=$$(go mod download -json k8s.io/kubernetes@v$(KUBERNETES_VERSION) | sed -n 's/^\t"Dir": "\(.*\)",$$/\1/p') \
	  && test -n "$$folder" && part=v0.$(KUBERNETES_VERSION:1.%=%) \
	  && sed -E "s#^module .*#module exequatur.test/kube-apiserver#; s#^(\s*k8s.io/[a-z-]+) v0\.0\.0\$$#\1 $$part#; \
	    s#(k8s.io/[a-z-]+) => \./staging/.*#\1 => \1 $$part#" "$$folder/go.mod" > $@.src/go.mod \
	  && cp "$$folder/go.sum" $@.src && chmod u+w $@.src/* && cd $@.src \
	  && go mod edit -require k8s.io/kubernetes@v$(KUBERNETES_VERSION) \
	  && CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -o $@.tmp -ldflags "-X k8s.io/component-base/version.gitVersion=v$(KUBERNETES_VERSION)" \
	    k8s.io/kubernetes/cmd/kube-apiserver
	@rm -rf $@.src && mv $@.tmp $@

# Prometheus' own checker of rules comes from Debian's package: nothing of it is installed.
$(CACHE)/bin/promtool-$(PROMTOOL_VERSION):
	@command -v apt-get >/dev/null || { echo 'error: name a promtool with EXEQUATUR_PROMTOOL=...'; exit 1; }
	@mkdir -p $(@D) && rm -rf $@.src && mkdir $@.src && cd $@.src && apt-get -qq download prometheus \
	  && dpkg -x prometheus_*.deb . && mv usr/bin/promtool $@
	@rm -rf $@.src

# What tests of pods and stores need of the system; root installs what is missing, anybody else is told.
system:
	@missing=""; for pair in nft:nftables ip:iproute2 setpriv:util-linux cc:gcc; do \
	  PATH=$$PATH:/usr/sbin:/sbin command -v $${pair%%:*} >/dev/null || missing="$$missing $${pair#*:}"; done; \
	compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null || missing="$$missing postgresql"; \
	test -z "$$missing" || { test $$(id -u) = 0 && command -v apt-get >/dev/null \
	  && apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $$missing; } \
	  || { echo "error: install these packages:$$missing"; exit 1; }
