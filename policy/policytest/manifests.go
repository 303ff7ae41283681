package policytest

import (
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/twill-cni/twill/store"
)

// object is what YAML is made of.
type object = map[string]any

// Manifests returns the namespaces and policies of changes as manifests that `kubectl apply` takes, and store/manifest. It tells nothing of
// pods, nor of what is gone.
func Manifests(changes store.PolicyChanges) (string, error) {
	var objects []object
	for _, name := range slices.Sorted(maps.Keys(changes.Namespaces)) {
		if n := changes.Namespaces[name]; n != nil {
			objects = append(objects, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name, "labels": n.Labels}})
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(changes.Policies), store.ObjectName.Compare) {
		if p := changes.Policies[name]; p != nil {
			objects = append(objects, networkPolicy(p))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(changes.ClusterPolicies)) {
		if p := changes.ClusterPolicies[name]; p != nil {
			objects = append(objects, clusterNetworkPolicy(p))
		}
	}
	texts := make([]string, 0, len(objects))
	for _, o := range objects {
		text, err := yaml.Marshal(o)
		if err != nil {
			return "", err
		}
		texts = append(texts, string(text))
	}
	return strings.Join(texts, "---\n"), nil
}

func networkPolicy(p *store.NetworkPolicy) object {
	spec := object{"podSelector": selector(p.Pods)}
	var types []string
	if p.IsolatesIngress {
		types = append(types, "Ingress")
		spec["ingress"] = networkRules(p.Ingress, "from")
	}
	if p.IsolatesEgress {
		types = append(types, "Egress")
		spec["egress"] = networkRules(p.Egress, "to")
	}
	spec["policyTypes"] = types
	return object{
		"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
		"metadata": object{"namespace": p.Name.Namespace, "name": p.Name.Name}, "spec": spec,
	}
}

func networkRules(rules []store.PolicyRule, peersField string) []object {
	all := []object{}
	for _, r := range rules {
		rule := object{}
		var peers, ports []object
		for _, p := range r.Peers {
			peers = append(peers, networkPeer(p))
		}
		for _, p := range r.Ports {
			ports = append(ports, networkPort(p))
		}
		if peers != nil {
			rule[peersField] = peers
		}
		if ports != nil {
			rule["ports"] = ports
		}
		all = append(all, rule)
	}
	return all
}

func networkPeer(p store.PolicyPeer) object {
	if p.Block.IsValid() {
		block := object{"cidr": p.Block.String()}
		if len(p.Except) > 0 {
			block["except"] = p.Except
		}
		return object{"ipBlock": block}
	}
	peer := object{}
	if p.Namespaces != nil {
		peer["namespaceSelector"] = selector(*p.Namespaces)
	}
	if p.Pods != nil {
		peer["podSelector"] = selector(*p.Pods)
	}
	return peer
}

func networkPort(p store.PolicyPort) object {
	port := object{"protocol": p.Protocol.String()}
	switch {
	case p.Name != "":
		port["port"] = p.Name
	case p.Port != 0:
		port["port"] = p.Port
	}
	if p.EndPort != 0 {
		port["endPort"] = p.EndPort
	}
	return port
}

func clusterNetworkPolicy(p *store.ClusterNetworkPolicy) object {
	spec := object{
		"tier": p.Tier, "priority": p.Priority,
		"subject": object{"pods": object{"namespaceSelector": selector(p.Namespaces), "podSelector": selector(p.Pods)}},
		"ingress": clusterRules(p.Ingress, "from"), "egress": clusterRules(p.Egress, "to"),
	}
	return object{
		"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy", "metadata": object{"name": p.Name}, "spec": spec,
	}
}

func clusterRules(rules []store.ClusterPolicyRule, peersField string) []object {
	all := []object{}
	for _, r := range rules {
		var peers, protocols []object
		for _, p := range r.Peers {
			peers = append(peers, clusterPeer(p))
		}
		for _, p := range r.Ports {
			protocols = append(protocols, clusterPort(p))
		}
		rule := object{"action": r.Action, peersField: peers}
		if r.Name != "" {
			rule["name"] = r.Name
		}
		if protocols != nil {
			rule["protocols"] = protocols
		}
		all = append(all, rule)
	}
	return all
}

func clusterPeer(p store.PolicyPeer) object {
	switch {
	case p.Block.IsValid():
		return object{"networks": []string{p.Block.String()}}
	case p.Pods == nil:
		return object{"namespaces": selector(*p.Namespaces)}
	}
	return object{"pods": object{"namespaceSelector": selector(*p.Namespaces), "podSelector": selector(*p.Pods)}}
}

func clusterPort(p store.PolicyPort) object {
	if p.Name != "" {
		return object{"destinationNamedPort": p.Name}
	}
	port := object{"number": p.Port}
	if p.EndPort != 0 {
		port = object{"range": object{"start": p.Port, "end": p.EndPort}}
	}
	return object{strings.ToLower(p.Protocol.String()): object{"destinationPort": port}}
}

func selector(s store.Selector) object {
	var expressions []object
	for _, r := range s.Requirements() {
		e := object{"key": r.Key, "operator": r.Operator}
		if len(r.Values) > 0 {
			e["values"] = r.Values
		}
		expressions = append(expressions, e)
	}
	if expressions == nil {
		return object{}
	}
	return object{"matchExpressions": expressions}
}
