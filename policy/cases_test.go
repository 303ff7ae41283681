package policy_test

import (
	"net/netip"
	"testing"

	"github.com/twill-cni/twill/policy"
	"github.com/twill-cni/twill/policy/policytest"
)

func TestCases(t *testing.T) {
	for _, c := range policytest.Cases() {
		t.Run(c.Kind+": "+c.Name, func(t *testing.T) {
			world := policy.NewWorld()
			changes := c.Changes()
			world.Apply(changes)
			addrs := map[string][]netip.Addr{}
			for _, pod := range changes.Pods {
				addrs[pod.Name.String()] = pod.Addrs
			}
			for n, check := range c.Checks() {
				// Both families of a pod are the same to all but blocks; a part of the checks is enough to see that.
				for i, src := range addrs[check.Src] {
					if !c.Family.Has(src) || c.Family == policytest.Both && i == 1 && n%10 != 0 {
						continue
					}
					flow := policy.Flow{Src: src, Dst: addrs[check.Dst][i]}
					flow.Protocol, flow.Port = check.Service.For(flow.Dst)
					if verdict := world.Decide(flow); verdict.Allowed() != check.Allowed {
						t.Errorf("%s (from %s): allowed %v, want %v\n%s\n%s", check, src, verdict.Allowed(), check.Allowed,
							verdict.Egress.Explain(flow), verdict.Ingress.Explain(flow))
					}
				}
			}
		})
	}
}
