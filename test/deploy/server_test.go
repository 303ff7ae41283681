package deploy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/twill-cni/twill/test/kubetest"
)

// A real API server is asked what it thinks of the chart.
func TestAPIServer(t *testing.T) {
	// Nothing is in a namespace of its own here, so the port has to be one that nobody has.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().(*net.TCPAddr).AddrPort()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	cluster := kubetest.Start(t, kubetest.Options{Addr: at.Addr(), Port: at.Port()})
	t.Run("takes everything", func(t *testing.T) { takesEverything(t, cluster) })
	t.Run("has policies", func(t *testing.T) { hasPolicies(t, cluster) })
	t.Run("allows no more than is needed", func(t *testing.T) { allowsNoMore(t, cluster) })
}

// Without a warning: kinds, fields and values are those of Kubernetes.
func takesEverything(t *testing.T, cluster *kubetest.Cluster) {
	manifests := map[string]string{"deploy/twill.yaml": read(t, deployDir+"/twill.yaml")}
	for name, values := range map[string][]string{
		"bgp": {"backend=bgp", "bgp.config.as=65001", "bgp.passwordSecret=keys", "imagePullSecrets={registry}"},
		"monitoring": {"monitoring.enabled=true", "monitoring.scrape=none", "monitoring.alerts=false", "seLinuxOptions.type=spc_t", "removeTaint=true",
			"podAnnotations.a=b", "updateStrategy.maxUnavailable=10%", "resources.limits.memory=500Mi"},
		"policy":  {"policy.enabled=true"},
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

// Who installs Twill into a cluster with policies is told that it does not enforce them, unless it does.
func hasPolicies(t *testing.T, cluster *kubetest.Cluster) {
	const warning = "This cluster has NetworkPolicies (1 of them), and Twill does not enforce them"
	for _, step := range []struct {
		there  bool
		values []string
		warned bool
	}{{false, nil, false}, {true, nil, true}, {true, []string{"policy.enabled=true"}, false}} {
		if step.there {
			if err := cluster.Apply(t.Context(), "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a, namespace: default}, spec: {podSelector: {}}}"); err != nil {
				t.Fatal(err)
			}
		}
		notes, err := helm(t).Notes(cluster.Admin(), step.values...)
		if err != nil || !strings.Contains(notes, "Twill is being rolled out") || strings.Contains(notes, warning) != step.warned {
			t.Errorf("policies: %t, values %v: %v\n%s", step.there, step.values, err, notes)
		}
	}
}

// What a twilld may do and what not, asked in the name of the one on node1.
func allowsNoMore(t *testing.T, cluster *kubetest.Cluster) {
	text, err := helm(t).Template("removeTaint=true")
	if err == nil {
		err = cluster.Apply(t.Context(), text)
	}
	for _, name := range []string{"node1", "node2"} {
		if err == nil {
			err = cluster.AddNode(t.Context(), kubetest.Node{Name: name})
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Admin())
	if err != nil {
		t.Fatal(err)
	}
	config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:kube-system:twill",
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {"node1"}}}
	twilld, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(verb, path string) error {
		r := twilld.RESTClient().Verb(verb).AbsPath(path)
		if verb == http.MethodPatch {
			r = r.SetHeader("Content-Type", "application/merge-patch+json").Body([]byte(`{"metadata":{"annotations":{"flannel.alpha.coreos.com/public-ip":"192.0.2.1"}}}`))
		}
		return r.Do(t.Context()).Error()
	}
	// The policy is in force a moment after it was made.
	if err := cluster.Await(t.Context(), "the policy to be in force", func(context.Context) error {
		if err := ask("PATCH", "/api/v1/nodes/node2/status"); err == nil || !strings.Contains(err.Error(), "no other Node") {
			return fmt.Errorf("the status of another node: have %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		verb, path string
		refused    string // what the API server says; empty when it does as it was asked
	}{
		{"GET", "/api/v1/nodes", ""},
		{"GET", "/api/v1/services", ""},
		{"GET", "/apis/discovery.k8s.io/v1/endpointslices", ""},
		{"GET", "/apis/networking.k8s.io/v1/servicecidrs", ""},
		{"PATCH", "/api/v1/nodes/node1/status", ""},
		{"PATCH", "/api/v1/nodes/node1", ""},
		{"PATCH", "/api/v1/nodes/node2", "no other Node"},
		{"PUT", "/api/v1/nodes/node1", "cannot update"},
		{"DELETE", "/api/v1/nodes/node1", "cannot delete"},
		{"PATCH", "/api/v1/namespaces/default/services/kubernetes", "cannot patch"},
		{"GET", "/api/v1/secrets", "cannot list"},
		{"GET", "/api/v1/pods", "cannot list"},
		{"GET", "/api/v1/configmaps", "cannot list"},
	} {
		switch err := ask(c.verb, c.path); {
		case c.refused == "" && err != nil:
			t.Errorf("%s %s: %v", c.verb, c.path, err)
		case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
			t.Errorf("%s %s: have %v, want %q", c.verb, c.path, err, c.refused)
		}
	}
}
