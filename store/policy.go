package store

import (
	"context"
	"net/netip"
)

// NetworkPolicy is what a node needs of a NetworkPolicy (networking.k8s.io/v1), with the API's defaults filled in. What the API would refuse is
// not in it. A NetworkPolicy is never changed after it was made.
type NetworkPolicy struct {
	Name ObjectName
	Pods Selector // the pods of the policy's namespace that it is about

	// Isolates says for which directions its pods are closed but for what a rule allows (spec.policyTypes). Rules of a direction that is
	// not isolated mean nothing, and are left out.
	IsolatesIngress, IsolatesEgress bool
	Ingress, Egress                 []PolicyRule

	Flaw string // what of it is not understood, and so allows nothing; empty: all is understood
}

// PolicyRule allows what comes from (or goes to) one of its peers, to one of its ports.
type PolicyRule struct {
	Peers []PolicyPeer // empty: everybody
	Ports []PolicyPort // empty: every port of every protocol
}

// PolicyPeer selects pods, or addresses when Block is valid.
type PolicyPeer struct {
	Namespaces *Selector // of namespaces by their labels; nil: the policy's own namespace
	Pods       *Selector // nil: all pods of these namespaces

	Block  netip.Prefix   // an address block, masked; the zero Prefix: pods are meant
	Except []netip.Prefix // parts of Block that are not meant
}

// PolicyPort is a port, a range of ports or a named port, of the destination.
type PolicyPort struct {
	Protocol Protocol // 0, with Name alone: whichever the pod's port has (ClusterNetworkPolicy)
	Name     string   // of a port of the destination pod; empty: a number is meant
	Port     uint16   // 0, without Name: every port of the protocol
	EndPort  uint16   // inclusive; 0: Port alone
}

// ClusterNetworkPolicy is what a node needs of a ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2, standard channel). What the API
// would refuse is not in it. A ClusterNetworkPolicy is never changed after it was made.
type ClusterNetworkPolicy struct {
	Name     string
	Tier     PolicyTier
	Priority int // 0 to 1000; smaller ones come first, and of equal ones the smaller name

	// Namespaces and Pods select what it is about.
	Namespaces Selector
	Pods       Selector

	Ingress, Egress []ClusterPolicyRule // the first one that matches counts

	Flaw string // what of it is not understood, and so accepts nothing or denies everything; empty: all is understood
}

// ClusterPolicyRule says what becomes of what comes from (or goes to) one of its peers, to one of its ports.
type ClusterPolicyRule struct {
	Name   string
	Action PolicyAction
	Peers  []PolicyPeer // at least one; Namespaces is never nil in those of pods
	Ports  []PolicyPort // empty: every port of every protocol
}

// PolicyTier is the tier of a ClusterNetworkPolicy.
type PolicyTier string

// The tiers. NetworkPolicies are between the two.
const (
	TierAdmin    PolicyTier = "Admin"
	TierBaseline PolicyTier = "Baseline"
)

// PolicyAction is what a rule of a ClusterNetworkPolicy does.
type PolicyAction string

// The actions.
const (
	ActionAccept PolicyAction = "Accept"
	ActionDeny   PolicyAction = "Deny"
	ActionPass   PolicyAction = "Pass" // on to the next tier
)

// Namespace is what policies need of a Namespace: its labels, among them kubernetes.io/metadata.name. A Namespace is never changed after it was made.
type Namespace struct {
	Name   string
	Labels map[string]string
}

// PolicyChanges tells what is new of policies and of what they select. Within the maps, nil stands for an object that is gone.
//
// Pods are those that have an address of their own, or will have one: pods that use their node's network, and those that have ended (phase
// Succeeded or Failed), are not there. A pod without an address yet is there, since its own node knows the address before the cluster does.
type PolicyChanges struct {
	// Reset: this is all there is, and whatever is not in it is gone. The first change is a reset, and each after which the source
	// cannot say what happened in between.
	Reset           bool
	Policies        map[ObjectName]*NetworkPolicy
	ClusterPolicies map[string]*ClusterNetworkPolicy
	Namespaces      map[string]*Namespace
	Pods            map[PodKey]*Pod
	// Rejected are objects that have just turned out not to be understood, in full or in part. One of which nothing is understood keeps its
	// last good state, if there is one.
	Rejected []Reject
	// Flawed are all objects that are not understood, in full or in part, as of this change, by key.
	Flawed []Reject
}

// PolicySource is where policies come from.
type PolicySource interface {
	// WatchPolicies calls emit with a reset at first and with changes after that; changes that come together are told together. It goes
	// on through disconnects of the source, and never tells a reset that it knows to be incomplete. It returns when ctx has ended. emit is
	// called from one goroutine; what it is given belongs to it.
	WatchPolicies(ctx context.Context, emit func(PolicyChanges)) error
}

// NamespaceNameLabel is the label that every namespace has, with its name as the value (KEP-2161).
const NamespaceNameLabel = "kubernetes.io/metadata.name"
