package policytest

import (
	"fmt"
	"strings"

	"github.com/twill-cni/twill/store"
)

// tierCases are all that an Admin policy, a NetworkPolicy and a Baseline policy can say together of connections to (or from) x/a.
func tierCases() []Case {
	actions := []store.PolicyAction{"", store.ActionAccept, store.ActionDeny, store.ActionPass}
	// One row for what Admin does, one column for NetworkPolicies: none, those that deny, those that allow. Each has what is left when Baseline
	// says nothing, Accept, Deny or Pass: o is open, x is closed.
	outcomes := [4][3]string{
		{"ooxo", "xxxx", "oooo"},
		{"oooo", "oooo", "oooo"},
		{"xxxx", "xxxx", "xxxx"},
		{"ooxo", "xxxx", "oooo"},
	}
	var cases []Case
	for a, admin := range actions {
		for n, network := range []string{"none", "deny", "allow"} {
			for b, baseline := range actions {
				name := fmt.Sprintf("Admin %s, NetworkPolicy %s, Baseline %s", orNone(admin), network, orNone(baseline))
				in := Case{Name: "ingress: " + name, ClusterPolicies: tierPolicies(admin, baseline, true)}
				out := Case{Name: "egress: " + name, ClusterPolicies: tierPolicies(admin, baseline, false)}
				switch network {
				case "deny":
					in.Policies, out.Policies = list(ingress("x", "deny", nth(1))), list(egress("x", "deny", nth(1)))
				case "allow":
					in.Policies, out.Policies = list(ingress("x", "allow", nth(1), rule(nil))), list(egress("x", "allow", nth(1), rule(nil)))
				}
				if outcomes[a][n][b] == 'x' {
					in.expect, out.expect = []expectation{shut("*/*", "x/a")}, []expectation{shut("x/a", "*/*")}
				}
				cases = append(cases, in, out)
			}
		}
	}
	return ofKind("tiers", cases)
}

func orNone(action store.PolicyAction) string {
	if action == "" {
		return "none"
	}
	return string(action)
}

func tierPolicies(admin, baseline store.PolicyAction, in bool) []*store.ClusterNetworkPolicy {
	var all []*store.ClusterNetworkPolicy
	for _, tier := range []struct {
		name   store.PolicyTier
		action store.PolicyAction
	}{{store.TierBaseline, baseline}, {store.TierAdmin, admin}} {
		if tier.action == "" {
			continue
		}
		p := clusterPolicy("of-"+strings.ToLower(string(tier.name)), tier.name, 10, nth(1), nth(1))
		rules := []store.ClusterPolicyRule{{Action: tier.action, Peers: peers(namespacesOf(sel()))}}
		if in {
			p.Ingress = rules
		} else {
			p.Egress = rules
		}
		all = append(all, p)
	}
	return all
}
