package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/twill-cni/twill/proxy/service"
)

// MaxSize is the size in bytes above which Parse refuses a document.
const MaxSize = 1 << 20

// Config is how the service proxy works. It is not changed after it was made.
type Config struct {
	HealthzAddress string // of /healthz and /livez
	MetricsAddress string // of /metrics and /proxyMode
	BindHardFail   bool   // an address that is taken ends the daemon; else it is tried again

	MasqueradeBit uint8 // of the packet mark, 0 to 31
	MasqueradeAll bool  // connections to ClusterIPs get the node's address whoever the client is

	SyncPeriod    time.Duration // between full comparisons with the kernel, up to an eighth more
	MinSyncPeriod time.Duration // between the starts of two syncs

	// ClusterNetworks are the pods' networks; nil: those of the network configuration.
	ClusterNetworks []netip.Prefix
	// Node ports answer at the node's own address of each family, if NodePortPrimary, and at its addresses in NodePortNetworks, but for those of
	// loopback.
	NodePortPrimary  bool
	NodePortNetworks []netip.Prefix

	Scheduler service.Scheduler // of Services that choose none

	Conntrack Conntrack
}

// Conntrack are settings of the kernel's connection tracking; zero leaves the kernel's.
type Conntrack struct {
	BeLiberal       bool // packets out of the window are no reason to call them invalid
	MaxPerCore, Min uint32
	TCPEstablished  time.Duration
	TCPCloseWait    time.Duration
	UDP, UDPStream  time.Duration
}

// Unsupported is a key that was set and has no effect.
type Unsupported struct{ Key, Reason string }

// Default returns what holds without a file: kube-proxy's defaults, as far as they apply. A full comparison is less often, 5 minutes instead of
// 30 s: it reads all that the kernel holds, and what others change is known from notifications at once.
func Default() *Config {
	return &Config{
		HealthzAddress:  "0.0.0.0:10256",
		MetricsAddress:  "127.0.0.1:10249",
		MasqueradeBit:   14,
		SyncPeriod:      5 * time.Minute,
		NodePortPrimary: true,
		Scheduler:       service.Random,
	}
}

// Parse reads a file. The error joins all that is wrong; each names the key, what it has and what it should have.
func Parse(data []byte) (*Config, []Unsupported, error) {
	if len(data) > MaxSize {
		return nil, nil, fmt.Errorf("KubeProxyConfiguration: %d bytes are more than the %d that are allowed", len(data), MaxSize)
	}
	var d document
	if err := yaml.UnmarshalStrict(data, &d); err != nil {
		return nil, nil, fmt.Errorf("KubeProxyConfiguration: %w", err)
	}
	c := Default()
	p := &problems{}
	p.check(d.APIVersion == apiVersion, "apiVersion", d.APIVersion, apiVersion)
	p.check(d.Kind == kind, "kind", d.Kind, kind)
	c.HealthzAddress = p.address("healthzBindAddress", d.HealthzBindAddress, c.HealthzAddress)
	c.MetricsAddress = p.address("metricsBindAddress", d.MetricsBindAddress, c.MetricsAddress)
	c.BindHardFail = d.BindAddressHardFail
	if bit := d.NFTables.MasqueradeBit; bit != nil {
		p.check(*bit >= 0 && *bit <= 31, "nftables.masqueradeBit", *bit, "a bit from 0 to 31")
		c.MasqueradeBit = uint8(*bit)
	}
	c.MasqueradeAll = d.NFTables.MasqueradeAll
	c.SyncPeriod = p.duration("nftables.syncPeriod", d.NFTables.SyncPeriod, c.SyncPeriod)
	c.MinSyncPeriod = p.duration("nftables.minSyncPeriod", d.NFTables.MinSyncPeriod, c.MinSyncPeriod)
	c.ClusterNetworks = p.prefixes("clusterCIDR", strings.FieldsFunc(d.ClusterCIDR, func(r rune) bool { return r == ',' }))
	p.nodePorts(c, d.NodePortAddresses)
	if s := d.IPVS.Scheduler; s != "" {
		c.Scheduler = service.Scheduler(s)
		p.check(slices.Contains(service.Schedulers(), c.Scheduler), "ipvs.scheduler", s, fmt.Sprint(service.Schedulers()))
	}
	c.Conntrack = p.conntrack(d.Conntrack)
	if err := errors.Join(p.errs...); err != nil {
		return nil, nil, fmt.Errorf("KubeProxyConfiguration: %w", err)
	}
	unsupported, err := unsupportedKeys(data)
	return c, unsupported, err
}

// problems collects what is wrong, so that all of it is told at once.
type problems struct{ errs []error }

func (p *problems) check(ok bool, key string, have, want any) {
	if !ok {
		p.errs = append(p.errs, fmt.Errorf("%s: have %q, want %v", key, fmt.Sprint(have), want))
	}
}

// address reads ADDRESS:PORT. As in kube-proxy, an address without a port has the default's.
func (p *problems) address(key, v, fallback string) string {
	if v == "" {
		return fallback
	}
	_, defaultPort, _ := net.SplitHostPort(fallback)
	if a, err := netip.ParseAddr(v); err == nil {
		return net.JoinHostPort(a.String(), defaultPort)
	}
	host, port, err := net.SplitHostPort(v)
	n, portErr := strconv.ParseUint(port, 10, 16)
	_, addrErr := netip.ParseAddr(host)
	p.check(err == nil && portErr == nil && n != 0 && (addrErr == nil || host == ""), key, v, "an address and a port such as "+fallback)
	return v
}

func (p *problems) duration(key string, v *duration, fallback time.Duration) time.Duration {
	if v == nil || v.d == 0 {
		return fallback
	}
	p.check(v.err == nil && v.d > 0, key, v.text, "a duration such as 30s")
	return v.d
}

func (p *problems) prefixes(key string, all []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range all {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(s))
		p.check(err == nil, key, s, "a network such as 10.5.0.0/16")
		out = append(out, prefix.Masked())
	}
	return out
}

// nodePorts reads networks and kube-proxy's words for some. An empty list is the default.
func (p *problems) nodePorts(c *Config, all []string) {
	if len(all) == 0 {
		return
	}
	c.NodePortPrimary = slices.Contains(all, nodePortsPrimary)
	var networks []string
	for _, s := range all {
		switch s {
		case nodePortsPrimary, nodePortsLocalhost:
		case nodePortsAll:
			networks = append(networks, "0.0.0.0/0", "::/0")
		default:
			networks = append(networks, s)
		}
	}
	c.NodePortNetworks = p.prefixes("nodePortAddresses", networks)
}

// The words that nodePortAddresses may have in the place of networks.
const (
	nodePortsPrimary   = "primary"
	nodePortsAll       = "all"
	nodePortsLocalhost = "localhost" // has no effect
)

func (p *problems) conntrack(d conntrackDocument) Conntrack {
	number := func(key string, v *int64) uint32 {
		if v == nil {
			return 0
		}
		p.check(*v >= 0 && *v <= 1<<31-1, "conntrack."+key, *v, "a number of entries")
		return uint32(*v)
	}
	return Conntrack{
		BeLiberal:      d.TCPBeLiberal,
		MaxPerCore:     number("maxPerCore", d.MaxPerCore),
		Min:            number("min", d.Min),
		TCPEstablished: p.duration("conntrack.tcpEstablishedTimeout", d.TCPEstablishedTimeout, 0),
		TCPCloseWait:   p.duration("conntrack.tcpCloseWaitTimeout", d.TCPCloseWaitTimeout, 0),
		UDP:            p.duration("conntrack.udpTimeout", d.UDPTimeout, 0),
		UDPStream:      p.duration("conntrack.udpStreamTimeout", d.UDPStreamTimeout, 0),
	}
}
