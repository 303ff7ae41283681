package kubetest

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
)

// ClusterDomain ends the names of Services.
const ClusterDomain = "cluster.local"

// DNSAddr is the ClusterIP of the Service kube-dns, to which kubelets send Pods.
var DNSAddr = netip.MustParseAddr("10.96.0.10")

//go:embed coredns.yaml
var dnsManifests string

// InstallDNS makes CoreDNS's Deployment and the Service kube-dns, with the image CoreDNSImage, which machines must have. It runs once a
// node has a Pod network.
func (c *Cluster) InstallDNS(ctx context.Context) error {
	if err := c.Apply(ctx, dnsManifests); err != nil {
		return fmt.Errorf("install DNS: %w", err)
	}
	return nil
}
