package store

import "errors"

// Trouble is an error with a reason in one word, for those who tell a cluster about it: the reason of a Kubernetes Event. Its text is that of
// the error.
type Trouble struct {
	Reason string
	Err    error
}

// The reasons of a Trouble.
const (
	ReasonPodCIDRMissing       = "PodCIDRMissing"       // the node has no pod subnets
	ReasonPodCIDROverlap       = "PodCIDROverlap"       // an older node has some of them
	ReasonNetworkConfigInvalid = "NetworkConfigInvalid" // the network configuration is wrong, or does not fit the node
	ReasonKernelFeatureMissing = "KernelFeatureMissing" // the kernel lacks something that a node needs
	ReasonLeftover             = "LeftoverOfAnotherCNI" // what another network left on the host is in the way
	ReasonForbidden            = "ForbiddenByRBAC"      // the Kubernetes API refused, for want of a rule
	ReasonPolicyFlawed         = "PolicyNotUnderstood"  // a policy, or what policies select, is not understood in full
)

func (t *Trouble) Error() string { return t.Err.Error() }

func (t *Trouble) Unwrap() error { return t.Err }

// ReasonOf returns the reason of the first Trouble in err's tree, or otherwise when there is none.
func ReasonOf(err error, otherwise string) string {
	var t *Trouble
	if errors.As(err, &t) {
		return t.Reason
	}
	return otherwise
}
