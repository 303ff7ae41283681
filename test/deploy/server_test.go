package deploy

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// A real API server takes everything, without a warning: kinds, fields and values are those of Kubernetes.
func TestAPIServerTakesIt(t *testing.T) {
	cluster := kubetest.Start(t, kubetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), Port: 16443})
	manifests := map[string]string{"deploy/twill.yaml": read(t, deployDir+"/twill.yaml")}
	for name, values := range map[string][]string{
		"bgp": {"backend=bgp", "bgp.config.as=65001", "bgp.passwordSecret=keys", "imagePullSecrets={registry}"},
		"monitoring": {"monitoring.enabled=true", "monitoring.scrape=none", "monitoring.alerts=false", "seLinuxOptions.type=spc_t", "removeTaint=true",
			"podAnnotations.a=b", "updateStrategy.maxUnavailable=10%", "resources.limits.memory=500Mi"},
		"cleanup": {"cleanup.enabled=true"},
	} {
		text, err := helm(t).Template(values...)
		if err != nil {
			t.Fatal(err)
		}
		manifests[name] = text
	}
	for name, text := range manifests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "manifests.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := cluster.Kubectl(t.Context(), "apply", "--server-side", "--dry-run=server", "--validate=strict", "--warnings-as-errors", "-f", file)
			if err != nil {
				t.Fatal(err)
			}
			if docs, _ := Split(text); strings.Count(out, "serverside-applied") != len(docs) {
				t.Errorf("not all of %d objects were taken:\n%s", len(docs), out)
			}
		})
	}
}
