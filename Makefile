# Twill. `make help` lists the targets; `make demo` and `make test` are the two to know.
# demo, test, bench and everything below test/ make network namespaces: they need root.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GOBUILD  := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
PROGRAMS := ./plugins/twill ./ipam/twill-ipam ./daemon/twilld ./ctl/twillctl
TOOLS    := $(CURDIR)/.cache/tools
PEERS    := $(CURDIR)/.cache/peers
KUBE     := $(CURDIR)/.cache/kube
FUZZTIME ?= 10s
OUTAGE   ?= 3m
# The tag is what deploy/ asks for, so that `kubectl apply -f deploy/twill.yaml` runs what `make image` has built.
IMAGE     ?= docker.io/twill-cni/twill:$(shell sed -n 's/^appVersion: *//p' deploy/chart/twill/Chart.yaml)
PLATFORMS ?= linux/amd64 linux/arm64

.PHONY: help build image demo test bench lint arch unit e2e e2e-kube e2e-policy e2e-outage fuzz tools peers kube kube-build kube-node kube-node-build conformance conformance-build helm manifests chart promtool setup root clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build twill, twill-ipam, twilld and twillctl into bin/
	@mkdir -p bin
	$(GOBUILD) -o bin/ $(PROGRAMS)

image: ## build bin/twill-image.tar, an OCI archive for `ctr -n k8s.io images import` (PLATFORMS=linux/amd64 for one alone, IMAGE=NAME:TAG)
	@mkdir -p bin $(TOOLS)
	cd deploy/image && go build -o $(TOOLS)/image .
	@built=(); for platform in $(PLATFORMS); do \
		dir=.cache/image/$$platform; rm -rf $$dir; mkdir -p $$dir; \
		echo "building for $$platform"; \
		GOOS=$${platform%/*} GOARCH=$${platform#*/} $(GOBUILD) -o $$dir/ $(PROGRAMS); \
		built+=("$$platform=$$dir"); \
	done; \
	$(TOOLS)/image -out bin/twill-image.tar -tag $(IMAGE) -version $(VERSION) "$${built[@]}"
	@echo "bin/twill-image.tar holds $(IMAGE) for $(PLATFORMS)"

demo: root build ## three nodes, pods on each, who reaches whom, a Service balanced over the pods, how the nodes are, the way of a packet; with VXLAN and with BGP
	bin/twillctl lab --backend=vxlan,bgp

test: root setup lint arch unit chart e2e ## everything that CI runs; of the tests on a real Kubernetes those of -short
	$(MAKE) --no-print-directory e2e-kube SHORT=-short

lint: tools ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$unformatted" ] || { echo "gofmt: $$unformatted"; exit 1; }
	go vet ./...
	go vet -tags failpoint ./...
	$(TOOLS)/staticcheck ./...
	cd deploy/image && go vet ./... && $(TOOLS)/staticcheck ./...

arch: ## who may import what
	go test ./test/arch

unit: root peers kube ## the packages' own tests with the race detector; those that touch a kernel make their own namespaces
	TWILL_PEERS=$(PEERS) TWILL_KUBE=$(KUBE) go test -race $$(go list ./... | grep -v /test/)

e2e: root build peers kube ## black-box tests of the built binaries in the lab, beside real flanneld and a real Kubernetes with its kube-proxy
	TWILL_BIN=$(CURDIR)/bin TWILL_PEERS=$(PEERS) go test -count=1 -timeout 20m ./test/e2e
	TWILL_BIN=$(CURDIR)/bin TWILL_KUBE=$(KUBE) go test -count=1 -timeout 10m -p 1 -parallel 8 ./test/kubetest ./test/e2e/proxy
	TWILL_BIN=$(CURDIR)/bin go test -count=1 -timeout 10m -short ./test/e2e/trace
	TWILL_BIN=$(CURDIR)/bin go test -count=1 -timeout 10m ./test/e2e/connectivity
	TWILL_BIN=$(CURDIR)/bin go test -count=1 -timeout 10m ./test/e2e/page
	TWILL_BIN=$(CURDIR)/bin go test -count=1 -timeout 15m -short ./test/e2e/policy

e2e-policy: root build ## policies with real packets: the whole truth table, a thousand random policies, starts and re-used addresses by the thousand (e2e has a part)
	TWILL_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 60m ./test/e2e/policy

e2e-outage: root build peers ## etcd away for minutes (OUTAGE=3m), which e2e does for seconds
	TWILL_OUTAGE=$(OUTAGE) TWILL_BIN=$(CURDIR)/bin TWILL_PEERS=$(CURDIR)/.cache/peers go test -count=1 -v -timeout 20m -run TestEtcdOutage ./test/e2e

e2e-kube: root kube kube-node peers helm ## a real Kubernetes on which deploy/ installs Twill: every scenario, in both backends (SHORT=-short for what CI runs, RUN=PATTERN for some)
	$(MAKE) --no-print-directory image PLATFORMS=linux/$$(go env GOARCH)
	TWILL_IMAGE=$(CURDIR)/bin/twill-image.tar TWILL_KUBE=$(KUBE) TWILL_PEERS=$(PEERS) TWILL_HELM=$(TOOLS)/helm go test -count=1 -v -timeout 60m -p 1 $(SHORT) -run '$(RUN)' \
		./test/kubetest/rig ./test/e2e/kube

fuzz: ## every fuzz target for FUZZTIME (10s)
	test/fuzz.sh $(FUZZTIME)

bench: root setup build peers kube kube-node ## Twill beside its peers in one run, as ratios
	@$(MAKE) --no-print-directory image PLATFORMS=linux/$$(go env GOARCH)
	TWILL_BIN=$(CURDIR)/bin TWILL_PEERS=$(PEERS) TWILL_KUBE=$(KUBE) go run ./test/bench

tools: ## build the checkers
	@mkdir -p $(TOOLS)
	cd test/tools && go build -o $(TOOLS)/ tool

peers: ## build flanneld and the reference CNI plugins, as their projects' releases are: flanneld with cgo, the plugins static
	@mkdir -p $(PEERS)
	cd test/reference && CGO_ENABLED=1 go build -trimpath -ldflags "-s -w" -o $(PEERS)/ github.com/flannel-io/flannel
	cd test/reference && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $(PEERS)/ $$(go list tool | grep /plugins/)

kube: ## build etcd, kube-apiserver, kube-proxy and kubectl, for the tests that need a real Kubernetes (long, the first time)
	@mkdir -p $(KUBE)
	@[ "$$(cat $(KUBE)/built-from 2>/dev/null)" = "$$(cat test/kube/go.mod test/kube/go.sum | sha256sum)" ] || $(MAKE) --no-print-directory kube-build

kube-build:
	rm -f $(KUBE)/built-from
	cd test/kube && CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o $(KUBE)/etcd go.etcd.io/etcd/server/v3
	cd test/kube && version=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) && CGO_ENABLED=0 nice go build -trimpath \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version" -o $(KUBE)/ \
		k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-proxy k8s.io/kubernetes/cmd/kubectl
	cat test/kube/go.mod test/kube/go.sum | sha256sum >$(KUBE)/built-from

kube-node: ## build what machines of a Kubernetes run: kubelet, kubeadm, containerd, runc, CoreDNS and the controllers (long, the first time)
	@test/setup.sh node
	@mkdir -p $(KUBE)
	@[ "$$(cat $(KUBE)/node-built-from 2>/dev/null)" = "$$($(NODE_SOURCES))" ] || $(MAKE) --no-print-directory kube-node-build

NODE_SOURCES := cat test/{kube,runtime,coredns}/go.{mod,sum} | sha256sum

kube-node-build:
	rm -rf $(KUBE)/node-built-from $(KUBE)/images
	cd test/kube && version=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) && CGO_ENABLED=0 nice go build -trimpath \
		-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version" -o $(KUBE)/ k8s.io/kubernetes/cmd/kube-controller-manager \
		k8s.io/kubernetes/cmd/kube-scheduler k8s.io/kubernetes/cmd/kubelet k8s.io/kubernetes/cmd/kubeadm k8s.io/kubernetes/test/images/agnhost
	cd test/kube && source=$$(go list -m -f '{{.Dir}}' k8s.io/kubernetes) && install -m 644 $$source/test/images/agnhost/porter/localhost.* $(KUBE)/ && \
		gcc -Os -Wall -static -s -DVERSION=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) -o $(KUBE)/pause $$source/build/pause/linux/pause.c
	cd test/runtime && CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o $(KUBE)/ $$(go list tool | grep containerd)
	cd test/runtime && CGO_ENABLED=1 nice go build -trimpath -ldflags "-s -w" -tags seccomp -o $(KUBE)/ github.com/opencontainers/runc
	cd test/coredns && CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o $(KUBE)/ github.com/coredns/coredns
	$(NODE_SOURCES) >$(KUBE)/node-built-from

conformance: root peers kube kube-node helm conformance-build ## upstream's tests of Kubernetes' network group with Twill alone; BACKEND=vxlan or bgp; FOCUS=all for more than [Conformance], FOCUS=policies for NetworkPolicies
	@$(MAKE) --no-print-directory image PLATFORMS=linux/$$(go env GOARCH)
	go test ./test/conformance
	TWILL_PEERS=$(PEERS) TWILL_KUBE=$(KUBE) TWILL_HELM=$(TOOLS)/helm go run ./test/conformance $(if $(BACKEND),-backend='$(BACKEND)') $(if $(FOCUS),-focus='$(FOCUS)')

conformance-build:
	@mkdir -p $(KUBE)
	@[ "$$(cat $(KUBE)/e2e-built-from 2>/dev/null)" = "$$(cat test/conformance/e2e/go.{mod,sum} | sha256sum)" ] || { \
		echo "building upstream's tests (ten minutes, the first time)"; \
		cd test/conformance/e2e; rm -f $(KUBE)/e2e-built-from; version=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes); \
		CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o $(KUBE)/ $$(go list tool); \
		CGO_ENABLED=0 nice go test -c -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$version" \
			-o $(KUBE)/e2e.test k8s.io/kubernetes/test/e2e; \
		cat go.mod go.sum | sha256sum >$(KUBE)/e2e-built-from; }

helm: ## build helm, with which manifests are generated and the chart is tested (two minutes, the first time)
	@mkdir -p $(TOOLS)
	@[ "$$(cat $(TOOLS)/helm-built-from 2>/dev/null)" = "$$(cat test/deploy/helm/go.{mod,sum} | sha256sum)" ] || { \
		cd test/deploy/helm; \
		kubernetes=$$(go list -m -f '{{.Version}}' k8s.io/client-go); minor=$${kubernetes#v0.}; \
		CGO_ENABLED=0 nice go build -trimpath -o $(TOOLS)/ -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$$(go list -m -f '{{.Version}}' helm.sh/helm/v3) \
			-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$${minor%%.*} \
			-X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$${minor%%.*}" helm.sh/helm/v3/cmd/helm; \
		cat go.mod go.sum | sha256sum >$(TOOLS)/helm-built-from; }

promtool: ## build Prometheus' promtool, with which the alerts are tested (a few minutes, the first time)
	@mkdir -p $(TOOLS)
	@[ "$$(cat $(TOOLS)/promtool-built-from 2>/dev/null)" = "$$(cat test/deploy/promtool/go.{mod,sum} | sha256sum)" ] || { \
		cd test/deploy/promtool; \
		CGO_ENABLED=0 nice go build -trimpath -ldflags "-s -w" -o $(TOOLS)/ github.com/prometheus/prometheus/cmd/promtool; \
		cat go.mod go.sum | sha256sum >$(TOOLS)/promtool-built-from; }

manifests: helm ## generate deploy/twill.yaml and deploy/kustomize from the chart
	TWILL_HELM=$(TOOLS)/helm go run ./test/deploy/manifests

chart: helm promtool kube ## tests of deploy/: the chart and what is generated from it, also as an API server sees them; the alerts; the image's archive
	TWILL_HELM=$(TOOLS)/helm TWILL_PROMTOOL=$(TOOLS)/promtool TWILL_KUBE=$(KUBE) go test -count=1 ./test/deploy/...
	cd deploy/image && go test ./...

setup: ## install the Debian packages that the tests use
	test/setup.sh

root:
	@[ "$$(id -u)" = 0 ] || { echo "this target makes network namespaces: run it as root"; exit 1; }

clean: ## remove what was built
	rm -rf bin .cache
