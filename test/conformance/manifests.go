package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/twill-cni/twill/test/deploy"
)

// The Pod networks of kubetest's clusters.
const (
	pods4 = "10.244.0.0/16"
	pods6 = "fd00:244::/56"
)

// manifests returns what kubectl apply gets to install Twill: the file of deploy/ for the backend as it is or, for two IP families, an overlay
// in dir over it, as docs/kubernetes.md describes it; with policies, what the chart says.
func manifests(o options, backend, dir string) ([]string, error) {
	base := filepath.Join(o.deploy, "kustomize/overlays", backend)
	switch {
	case o.policies:
		return chart(o, backend, dir)
	case !o.dualStack && backend == "vxlan":
		return []string{"-f", filepath.Join(o.deploy, "twill.yaml")}, nil
	case !o.dualStack:
		return []string{"-k", base}, nil
	}
	overlay := filepath.Join(dir, "overlay")
	network, err := json.Marshal(map[string]any{
		"Network": pods4, "EnableIPv4": true, "IPv6Network": pods6, "EnableIPv6": true, "Backend": map[string]any{"Type": backend},
	})
	if err != nil {
		return nil, err
	}
	relative, err := filepath.Rel(overlay, base) // kustomize takes no absolute ones
	if err != nil {
		return nil, err
	}
	text := strings.NewReplacer("BASE", relative, "NETWORK", string(network)).Replace(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [BASE]
patches:
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: twill, namespace: kube-system}
      data:
        net-conf.json: 'NETWORK'
`)
	err = os.MkdirAll(overlay, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(overlay, "kustomization.yaml"), []byte(text), 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("make an overlay: %w", err)
	}
	return []string{"-k", overlay}, nil
}

// chart renders the chart with policies into dir.
func chart(o options, backend, dir string) ([]string, error) {
	helm, err := deploy.NewHelm(filepath.Dir(o.deploy))
	if err != nil {
		return nil, err
	}
	values := []string{"backend=" + backend, "network.ipv4=" + pods4, "policy.enabled=true"}
	if o.dualStack {
		values = append(values, "network.ipv6="+pods6)
	}
	text, err := helm.Template(values...)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	file := filepath.Join(dir, "twill.yaml")
	return []string{"-f", file}, os.WriteFile(file, []byte(text), 0o644)
}
