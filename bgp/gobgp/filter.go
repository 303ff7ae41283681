package gobgp

import (
	"context"
	"fmt"

	"github.com/osrg/gobgp/v4/api"

	"github.com/twill-cni/twill/bgp"
)

// The names of the two policies that the library applies to what neighbours announce and to what is announced to them.
const (
	importPolicy = "import"
	exportPolicy = "export"
)

// assignPolicies puts the two policies in force, empty.
func (e *engine) assignPolicies(ctx context.Context) error {
	for name, direction := range map[string]api.PolicyDirection{
		importPolicy: api.PolicyDirection_POLICY_DIRECTION_IMPORT,
		exportPolicy: api.PolicyDirection_POLICY_DIRECTION_EXPORT,
	} {
		policy := &api.Policy{Name: name}
		if err := e.server.AddPolicy(ctx, &api.AddPolicyRequest{Policy: policy}); err != nil {
			return fmt.Errorf("add %s policy: %w", name, err)
		}
		if err := e.server.AddPolicyAssignment(ctx, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
			Name: "global", Direction: direction, Policies: []*api.Policy{policy}, DefaultAction: api.RouteAction_ROUTE_ACTION_ACCEPT,
		}}); err != nil {
			return fmt.Errorf("assign %s policy: %w", name, err)
		}
	}
	return nil
}

func (e *engine) setPolicies(ctx context.Context, want bgp.Instance) error { return nil }
