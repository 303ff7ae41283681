package kube

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/store"
)

// A Node's annotations. The first ones are flannel's (its pkg/subnet/kube/annotations.go), so that nodes of both kinds reach each other.
const (
	flannel = "flannel.alpha.coreos.com/"

	annotationManaged     = flannel + "kube-subnet-manager" // "true": the rest is to be believed
	annotationType        = flannel + "backend-type"
	annotationData        = flannel + "backend-data"    // JSON
	annotationV6Data      = flannel + "backend-v6-data" // JSON
	annotationPublicIP    = flannel + "public-ip"
	annotationPublicIPv6  = flannel + "public-ipv6"
	annotationOverwrite   = flannel + "public-ip-overwrite" // the operator's: published in place of the node's own
	annotationOverwriteV6 = flannel + "public-ipv6-overwrite"
	annotationBGP         = "twill-cni.github.io/bgp" // the operator's: a JSON object, which package bgp/config reads
)

// published are the annotations that a node writes, and the only ones that it removes.
var published = []string{annotationManaged, annotationType, annotationData, annotationV6Data, annotationPublicIP, annotationPublicIPv6}

// read are those that are kept of a Node.
var read = append([]string{annotationOverwrite, annotationOverwriteV6, annotationBGP}, published...)

// annotations returns what a node with these attributes publishes. Without a value, an annotation is not there.
func annotations(a store.Attributes) map[string]string {
	all := map[string]string{annotationManaged: "true", annotationType: a.BackendType}
	put := func(key, value string) {
		if value != "" {
			all[key] = value
		}
	}
	if a.PublicIP.IsValid() {
		put(annotationPublicIP, a.PublicIP.String())
	}
	if a.PublicIPv6.IsValid() {
		put(annotationPublicIPv6, a.PublicIPv6.String())
	}
	put(annotationData, string(a.BackendData))
	put(annotationV6Data, string(a.BackendV6Data))
	return all
}

// attributes is the inverse of annotations.
func attributes(of map[string]string) (a store.Attributes, err error) {
	a.BackendType = of[annotationType]
	if a.PublicIP, err = address(of, annotationPublicIP); err != nil {
		return a, err
	}
	a.PublicIP = a.PublicIP.Unmap()
	if a.PublicIPv6, err = address(of, annotationPublicIPv6); err != nil {
		return a, err
	}
	if a.BackendData, err = object(of, annotationData); err != nil {
		return a, err
	}
	a.BackendV6Data, err = object(of, annotationV6Data)
	return a, err
}

// address reads an address; the unspecified one stands for none.
func address(of map[string]string, key string) (netip.Addr, error) {
	text := of[key]
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("annotation %s: %.100q is not an address", key, text)
	}
	if addr.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return addr, nil
}

// object reads JSON; flannel writes null for none.
func object(of map[string]string, key string) (json.RawMessage, error) {
	text := of[key]
	if text == "" || text == "null" {
		return nil, nil
	}
	if len(text) > store.MaxLeaseSize {
		return nil, fmt.Errorf("annotation %s: %d bytes are more than the %d that are allowed", key, len(text), store.MaxLeaseSize)
	}
	if !json.Valid([]byte(text)) {
		return nil, fmt.Errorf("annotation %s: %.100q is not JSON", key, text)
	}
	return json.RawMessage(text), nil
}

// podSubnets reads a Node's spec.podCIDRs: at most one of each family.
func podSubnets(spec *corev1.NodeSpec) (s store.Subnets, err error) {
	cidrs := spec.PodCIDRs
	if len(cidrs) == 0 && spec.PodCIDR != "" {
		cidrs = []string{spec.PodCIDR}
	}
	for _, text := range cidrs {
		p, err := netip.ParsePrefix(text)
		if err != nil || p.Addr().Is4In6() {
			return s, fmt.Errorf("spec.podCIDRs: %.100q is not a subnet", text)
		}
		if p != p.Masked() || p.Bits() == 0 {
			return s, fmt.Errorf("spec.podCIDRs: %s is not the base address of a subnet", p)
		}
		of := &s.IPv4
		if p.Addr().Is6() {
			of = &s.IPv6
		}
		if of.IsValid() {
			return s, fmt.Errorf("spec.podCIDRs: %s and %s are of one family", *of, p)
		}
		*of = p
	}
	return s, nil
}

// subnets returns a Node's subnets of the families that the network has, once that is known: a cluster may have pods of a family that this network
// does not serve.
func (c *Client) subnets(n *corev1.Node) (store.Subnets, error) {
	s, err := podSubnets(&n.Spec)
	if network := c.network.Load(); network != nil {
		if !network.EnableIPv4 {
			s.IPv4 = netip.Prefix{}
		}
		if !network.EnableIPv6 {
			s.IPv6 = netip.Prefix{}
		}
	}
	return s, err
}

// lease returns what a Node says to its peers: nil when it has not registered.
func (c *Client) lease(n *corev1.Node) (*store.Lease, error) {
	if n.Annotations[annotationManaged] != "true" {
		return nil, nil
	}
	s, err := c.subnets(n)
	if err != nil {
		return nil, err
	}
	if s == (store.Subnets{}) {
		return nil, errors.New("it has no spec.podCIDRs")
	}
	a, err := attributes(n.Annotations)
	if err != nil {
		return nil, err
	}
	l := store.NewLease(s, a)
	return l, l.Validate()
}
