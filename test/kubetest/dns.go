package kubetest

import (
	"context"
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
)

// ClusterDomain ends the names of Services.
const ClusterDomain = "cluster.local"

// DNSAddr returns the ClusterIP of the Service kube-dns, to which kubelets send Pods: the tenth address of Services, as kubeadm has it.
func (c *Cluster) DNSAddr() netip.Addr {
	addr := c.options.ServiceCIDRs[0].Masked().Addr()
	for range 10 {
		addr = addr.Next()
	}
	return addr
}

//go:embed coredns.yaml
var dnsManifests string

// InstallDNS makes CoreDNS's Deployment and the Service kube-dns, with the image CoreDNSImage, which machines must have. It runs once a
// node has a Pod network.
func (c *Cluster) InstallDNS(ctx context.Context) error {
	if err := c.Apply(ctx, strings.ReplaceAll(dnsManifests, "DNS_ADDR", c.DNSAddr().String())); err != nil {
		return fmt.Errorf("install DNS: %w", err)
	}
	return nil
}
