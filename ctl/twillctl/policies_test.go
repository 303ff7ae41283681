package main

import (
	"strings"
	"testing"

	"github.com/twill-cni/twill/store/manifest"
)

const policyManifests = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: api, namespace: shop}
spec:
  podSelector: {matchLabels: {app: api}, matchExpressions: [{key: tier, operator: In, values: [a, b]}]}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny}, spec: {policyTypes: [Egress, Ingress]}}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: metadata-service}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress: [{action: Deny, to: [{networks: [169.254.169.254/32]}]}]
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, metadata: {name: base}, spec: {tier: Baseline, priority: 0, subject: {pods: {podSelector: {matchLabels: {a: b}}}}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {team: a}}}
`

func TestPolicyCommands(t *testing.T) {
	endpoint := startEtcd(t)
	dir := t.TempDir()
	file := writeFile(t, dir, "all.yaml", policyManifests)
	nodes := writeFile(t, dir, "nodes.yaml", strings.Replace(policyManifests, "networks: [169.254.169.254/32]", "nodes: {}", 1))
	steps := []objectStep{
		{"the experimental channel", "apply -f " + nodes, 1, "document 3, line 17: spec.egress[0].to[0].nodes: Forbidden: is of the API's experimental channel"},
		{"nothing is there", "get netpol -A", 0, `NAMESPACE +NAME +POD-SELECTOR +TYPES +AGE\n`},
		{"apply", "apply -f " + file, 0, `networkpolicy shop/api created
networkpolicy default/deny created
clusternetworkpolicy metadata-service created
clusternetworkpolicy base created
namespace shop created
`},
		{"apply again", "apply -f " + file, 0, `networkpolicy shop/api unchanged
networkpolicy default/deny unchanged
clusternetworkpolicy metadata-service unchanged
clusternetworkpolicy base unchanged
namespace shop unchanged
`},
		{"policies", "get networkpolicies -A", 0, `NAMESPACE +NAME +POD-SELECTOR +TYPES +AGE
default +deny +<none> +Egress,Ingress +\d+s
shop +api +app=api,tier in \(a,b\) +Ingress +\d+s
`},
		{"policies of a namespace", "get networkpolicy -n shop", 0, `NAME +POD-SELECTOR +TYPES +AGE\napi +app=api,tier in \(a,b\) +Ingress +\d+s\n`},
		{"cluster policies", "get cnp", 0, `NAME +TIER +PRIORITY +AGE\nbase +Baseline +0 +\d+s\nmetadata-service +Admin +10 +\d+s\n`},
		{"cluster policies, wide, of all namespaces", "get clusternetworkpolicies -A -o wide", 0,
			`NAME +TIER +PRIORITY +SUBJECT +AGE\nbase +Baseline +0 +pods a=b +\d+s\nmetadata-service +Admin +10 +namespaces <none> +\d+s\n`},
		{"namespaces", "get namespaces -A", 0, `NAME +AGE +LABELS\nshop +\d+s +kubernetes.io/metadata.name=shop,team=a\n`},
		{"a policy, YAML", "get networkpolicy deny -o yaml", 0, `(?s)apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n.*policyTypes:\n  - Egress\n  - Ingress\n`},
		{"no such policy", "get networkpolicy none", 1, "networkpolicy default/none: not found"},
		{"no such cluster policy", "get cnp none", 1, "clusternetworkpolicy none: not found"},
		{"delete by name", "delete networkpolicy deny", 0, "networkpolicy default/deny deleted\n"},
		{"delete of no namespace", "delete cnp base -n shop", 0, "clusternetworkpolicy base deleted\n"},
		{"delete nothing", "delete namespace lab", 1, "namespace lab: not found"},
		{"delete a namespace", "delete ns shop", 0, "namespace shop deleted\n"},
		{"what was in it stays", "get netpol -n shop", 0, `NAME.*\napi .*\n`},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) { step.run(t, "--etcd-endpoints", endpoint) })
	}
	for kind, want := range map[string]int{"netpol": 1, "cnp": 1} {
		_, stdout, _ := runLine(t, "get", kind, "-A", "-o", "yaml", "--etcd-endpoints", endpoint)
		if docs, err := manifest.Parse([]byte(stdout)); err != nil || len(docs) != want {
			t.Errorf("what get prints cannot be applied: %v\n%s", err, stdout)
		}
	}
}
