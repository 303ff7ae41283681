package kube

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// apiServer returns HOST:PORT by which nodes reach the API server without Services.
func (r *rig) apiServer() string { return net.JoinHostPort(r.Control.Addrs[0].String(), "6443") }

// locateAPI makes the ConfigMap that says where the API server is, as a cluster without kube-proxy needs it.
func (r *rig) locateAPI(t testing.TB) {
	t.Helper()
	r.kubectl(t, "-n", namespace, "create", "configmap", "twill-api-server", "--from-literal=address="+r.apiServer())
}

// manifests returns what an operator applies: deploy/twill.yaml, or the overlay of kustomize for another backend, with the networks of the
// cluster in net-conf.json.
func (r *rig) manifests(t testing.TB) string {
	t.Helper()
	var text string
	if r.backend == "vxlan" {
		file, err := os.ReadFile(repository("deploy/twill.yaml"))
		must(t, err)
		text = string(file)
	} else {
		dir, err := filepath.Abs(repository("deploy/kustomize/overlays/" + r.backend))
		must(t, err)
		text = r.kubectl(t, "kustomize", dir)
	}
	return replace(t, text, `"EnableIPv6": false,`, `"EnableIPv6": true, "IPv6Network": "fd00:244::/56",`)
}

// replace replaces what must be there once.
func replace(t testing.TB, text, old, new string) string {
	t.Helper()
	if n := strings.Count(text, old); n != 1 {
		t.Fatalf("%q is in the text %d times:\n%s", old, n, text)
	}
	return strings.Replace(text, old, new, 1)
}

// values are those of the chart for the rig's cluster; more of them may follow.
func (r *rig) values(more ...string) []string {
	args := []string{"backend=" + r.backend, "network.ipv4=10.244.0.0/16", "network.ipv6=fd00:244::/56", "kubernetes.apiServers={" + r.apiServer() + "}",
		"cleanup.pauseImage=" + kubetest.PauseImage}
	var flags []string
	for _, v := range append(args, more...) {
		flags = append(flags, "--set", v)
	}
	return flags
}

// helm runs helm beside kubectl and returns what it printed.
func (r *rig) helm(t testing.TB, args ...string) string {
	t.Helper()
	program, err := filepath.Abs(cmp.Or(os.Getenv("TWILL_HELM"), repository(".cache/tools/helm")))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), enough)
	defer cancel()
	// The API server is in the namespace of the control plane's host.
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + r.Control.Namespace, "--", program, "--kubeconfig", r.Cluster.Admin()}, args...)...)
	home := t.TempDir()
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("helm %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// restart changes the pod template of Twill's DaemonSet, which starts a rolling update.
func (r *rig) restart(t testing.TB, mark string) {
	t.Helper()
	patch := fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"test":%q}}}}}`, mark)
	r.kubectl(t, "-n", namespace, "patch", "daemonset", daemonSet, "-p", patch)
}
