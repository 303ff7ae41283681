package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// Type is the plugin's "type" and the name of its binary.
const Type = "twill"

// What holds when a key is absent.
const (
	DefaultBridge = "cni0"
	DefaultRunDir = "/run/twill"
)

// The bounds of an MTU: what IPv6 needs (RFC 8200, 5; IPv4 alone works with less) and what a veth can have.
const (
	minMTU     = 576
	minMTUIPv6 = 1280
	maxMTU     = 65535
)

// ErrMTU says that the MTU is too small for the pod's addresses.
var ErrMTU = errors.New("mtu is too small")

// ErrSyntax says that the configuration is not the JSON that it should be.
var ErrSyntax = errors.New("network configuration cannot be decoded")

// Config is a network configuration. It is not changed after Parse made it.
type Config struct {
	CNIVersion string
	Name       string // of the network
	Bridge     string
	MTU        int // bytes, of the pod's link; 0: the bridge's
	Hairpin    bool
	RunDir     string       // absolute
	IPAM       string       // "ipam.type"
	DNS        DNS          // runtimeConfig.dns, else dns
	Cluster    string       // clusterDomain, unless the runtime says what DNS is; empty: none
	Policy     *gate.Config // nil: nobody enforces policies

	PortMappings []PortMapping
	Bandwidth    Bandwidth
	MAC          kernel.MAC        // of the pod's link; zero: derived
	Labels       map[string]string // of the pod, args.cni.labels; nil when there are none
	Ports        []PodPort         // of the pod, args.cni.ports

	PrevResult json.RawMessage // nil when there is none

	// ValidAttachments is what a GC keeps; nil when the key is absent, which is different from an empty list.
	ValidAttachments []kernel.PodOwner

	Raw []byte // the whole document, for ipam
}

// DNS is what the result tells a runtime about name servers.
type DNS struct {
	Nameservers []string `json:"nameservers,omitempty"`
	Domain      string   `json:"domain,omitempty"`
	Search      []string `json:"search,omitempty"`
	Options     []string `json:"options,omitempty"`
}

// IsEmpty reports whether nothing is set.
func (d DNS) IsEmpty() bool {
	return len(d.Nameservers) == 0 && d.Domain == "" && len(d.Search) == 0 && len(d.Options) == 0
}

// PodDNS is what the result says of DNS for a pod, "namespace/name": names of Services of its own namespace need no more than the Service's name. A
// pod of which no name is known is in the namespace default.
func (c *Config) PodDNS(pod string) DNS {
	out := c.DNS
	if c.Cluster == "" {
		return out
	}
	namespace, _, _ := strings.Cut(pod, "/")
	if namespace == "" {
		namespace = "default"
	}
	out.Search = append([]string{namespace + ".svc." + c.Cluster}, c.DNS.Search...)
	return out
}

// Bandwidth are the limits of a pod's traffic, seen from the pod.
type Bandwidth struct{ Ingress, Egress kernel.Rate }

// IsZero reports whether nothing is limited.
func (b Bandwidth) IsZero() bool { return b.Ingress.Bits == 0 && b.Egress.Bits == 0 }

// document is the JSON form; known lists its keys.
type document struct {
	basics
	Type          string                 `json:"type"`
	Bridge        *string                `json:"bridge"`
	MTU           int                    `json:"mtu"`
	Hairpin       *bool                  `json:"hairpin"`
	DNS           DNS                    `json:"dns"`
	ClusterDomain string                 `json:"clusterDomain"`
	Policy        json.RawMessage        `json:"policy"`
	RuntimeConfig runtimeConfig          `json:"runtimeConfig"`
	Args          struct{ CNI argsJSON } `json:"args"`
}

// argsJSON is "args.cni" as the CNI conventions have it (CONVENTIONS.md, "args in network config").
type argsJSON struct {
	MAC    string          `json:"mac"`
	Labels []labelJSON     `json:"labels"`
	Ports  json.RawMessage `json:"ports"`
}

type labelJSON struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// basics is the part of the document that every verb needs.
type basics struct {
	CNIVersion       string                `json:"cniVersion"`
	Name             string                `json:"name"`
	RunDir           *string               `json:"runDir"`
	IPAM             struct{ Type string } `json:"ipam"`
	PrevResult       json.RawMessage       `json:"prevResult"`
	ValidAttachments *[]attachmentJSON     `json:"cni.dev/valid-attachments"`
}

var known = []string{"args", "bridge", "capabilities", "clusterDomain", "cniVersion", "dns", "hairpin", "ipam", "mtu", "name", "policy", "prevResult", "runDir",
	"runtimeConfig", "type"}

type runtimeConfig struct {
	PortMappings []portMappingJSON `json:"portMappings"`
	Bandwidth    bandwidthJSON     `json:"bandwidth"`
	MAC          string            `json:"mac"`
	DNS          struct {
		Servers  []string `json:"servers"`
		Searches []string `json:"searches"`
		Options  []string `json:"options"`
	} `json:"dns"`
}

type bandwidthJSON struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

type attachmentJSON struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// Parse reads and validates a network configuration for ADD, CHECK and STATUS. An error names the key; it wraps ErrSyntax when the
// document cannot be decoded. Unknown keys are errors, since a misspelt key that is ignored is found out only when
// something breaks; keys that contain a slash are the specification's and runtimes' own and are let through.
func Parse(data []byte) (*Config, error) {
	var all map[string]json.RawMessage
	if err := decode(data, &all); err != nil {
		return nil, err
	}
	if err := checkKeys(slices.Sorted(maps.Keys(all))); err != nil {
		return nil, err
	}
	var doc document
	if err := decode(data, &doc); err != nil {
		return nil, err
	}
	c, err := doc.common(data)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(doc.settings(c), doc.runtime(c))
}

// ParseForRemoval reads what DEL and GC need: name, directories, ipam and the valid attachments. It does not look at anything
// else. What an earlier or later version accepted, or what made an ADD fail, must not keep a pod from being removed.
func ParseForRemoval(data []byte) (*Config, error) {
	var doc basics
	if err := decode(data, &doc); err != nil {
		return nil, err
	}
	return doc.common(data)
}

func decode(data []byte, to any) error {
	if bytes.Equal(bytes.TrimSpace(data), []byte("null")) {
		return fmt.Errorf("%w: want an object, have null", ErrSyntax)
	}
	if err := json.Unmarshal(data, to); err != nil {
		return fmt.Errorf("%w: %w", ErrSyntax, err)
	}
	return nil
}

func checkKeys(keys []string) error {
	for _, k := range keys {
		if !slices.Contains(known, k) && !strings.Contains(k, "/") {
			return fmt.Errorf("%s: unknown key; known are %s", k, strings.Join(known, ", "))
		}
	}
	return nil
}

// common fills in what every verb needs.
func (d *basics) common(raw []byte) (*Config, error) {
	if err := ipam.ValidateNetwork(d.Name); err != nil {
		return nil, fmt.Errorf("name: %w", err)
	}
	c := &Config{CNIVersion: d.CNIVersion, Name: d.Name, Bridge: DefaultBridge, Hairpin: true, RunDir: DefaultRunDir,
		IPAM: d.IPAM.Type, Raw: raw}
	if d.RunDir != nil {
		if !filepath.IsAbs(*d.RunDir) {
			return nil, fmt.Errorf("runDir: %q is not an absolute path", *d.RunDir)
		}
		c.RunDir = filepath.Clean(*d.RunDir)
	}
	if string(d.PrevResult) != "null" {
		c.PrevResult = d.PrevResult
	}
	if d.ValidAttachments != nil {
		c.ValidAttachments = []kernel.PodOwner{}
		for _, a := range *d.ValidAttachments {
			c.ValidAttachments = append(c.ValidAttachments, kernel.PodOwner{ContainerID: a.ContainerID, IfName: a.IfName})
		}
	}
	return c, nil
}

// settings checks and takes over what the operator configures.
func (d *document) settings(c *Config) error {
	if d.Type != Type {
		return fmt.Errorf("type: %q is not %q", d.Type, Type)
	}
	if d.IPAM.Type == "" {
		return errors.New("ipam.type: is missing; want twill-ipam, or the name of another IPAM plugin")
	}
	if strings.ContainsAny(d.IPAM.Type, `/\`) {
		return fmt.Errorf("ipam.type: %q is a path; want the name of a plugin in CNI_PATH", d.IPAM.Type)
	}
	if d.Bridge != nil {
		if err := validIfName(*d.Bridge); err != nil {
			return fmt.Errorf("bridge: %w", err)
		}
		c.Bridge = *d.Bridge
	}
	if d.MTU != 0 && (d.MTU < minMTU || d.MTU > maxMTU) {
		return fmt.Errorf("mtu: %d is not 0 or between %d and %d", d.MTU, minMTU, maxMTU)
	}
	c.MTU = d.MTU
	if d.Hairpin != nil {
		c.Hairpin = *d.Hairpin
	}
	if len(d.Policy) > 0 && string(d.Policy) != "null" {
		policy, err := parsePolicy(d.Policy)
		if err != nil {
			return fmt.Errorf("policy: %w", err)
		}
		c.Policy = policy
		c.Policy.Bridge = c.Bridge
	}
	return nil
}

// CheckMTU returns an error that wraps ErrMTU when pods with these addresses cannot have that MTU.
func CheckMTU(mtu int, addresses []netip.Prefix) error {
	for _, a := range addresses {
		if a.Addr().Is6() && mtu < minMTUIPv6 {
			return fmt.Errorf("%w: IPv6 needs %d bytes (RFC 8200, section 5), the pod's link has %d", ErrMTU, minMTUIPv6, mtu)
		}
	}
	return nil
}

// runtime checks and takes over what the runtime passes for the capabilities.
func (d *document) runtime(c *Config) error {
	rc := d.RuntimeConfig
	c.DNS, c.Cluster = d.DNS, d.ClusterDomain
	if strings.ContainsFunc(c.Cluster, unicode.IsSpace) {
		return fmt.Errorf("clusterDomain: %q is no domain", c.Cluster)
	}
	if dns := rc.DNS; len(dns.Servers)+len(dns.Searches)+len(dns.Options) > 0 {
		c.DNS, c.Cluster = DNS{Nameservers: dns.Servers, Search: dns.Searches, Options: dns.Options}, ""
	}
	bw := rc.Bandwidth
	c.Bandwidth = Bandwidth{Ingress: kernel.Rate{Bits: bw.IngressRate, Burst: bw.IngressBurst},
		Egress: kernel.Rate{Bits: bw.EgressRate, Burst: bw.EgressBurst}}
	var err error
	for _, m := range []struct{ key, text string }{{"args.cni.mac", d.Args.CNI.MAC}, {"runtimeConfig.mac", rc.MAC}} {
		if m.text == "" {
			continue
		}
		if c.MAC, err = parseMAC(m.text); err != nil {
			return fmt.Errorf("%s: %w", m.key, err)
		}
	}
	if c.Labels, err = parseLabels(d.Args.CNI.Labels); err != nil {
		return fmt.Errorf("args.cni.labels: %w", err)
	}
	if c.Ports, err = parsePodPorts(d.Args.CNI.Ports); err != nil {
		return err
	}
	c.PortMappings, err = parsePortMappings(rc.PortMappings)
	return err
}

// maxLabels and maxLabel bound what a record of an attachment has to hold: the number of labels, and the size in bytes of a key or value.
const (
	maxLabels = 256
	maxLabel  = 317 // Kubernetes' longest: a DNS subdomain, a slash and 63 characters
)

func parseLabels(labels []labelJSON) (map[string]string, error) {
	if len(labels) > maxLabels {
		return nil, fmt.Errorf("%d labels are more than the %d that are allowed", len(labels), maxLabels)
	}
	var out map[string]string
	for i, l := range labels {
		if l.Key == "" || len(l.Key) > maxLabel || len(l.Value) > maxLabel {
			return nil, fmt.Errorf("label %d: want a key and a value of at most %d bytes", i, maxLabel)
		}
		if _, twice := out[l.Key]; twice {
			return nil, fmt.Errorf("%q is given twice", l.Key)
		}
		if out == nil {
			out = map[string]string{}
		}
		out[l.Key] = l.Value
	}
	return out, nil
}

func parseMAC(s string) (kernel.MAC, error) {
	mac, err := kernel.ParseMAC(s)
	if err == nil && !mac.IsUnicast() {
		err = fmt.Errorf("MAC address %q: is no unicast address", s)
	}
	return mac, err
}

// validIfName applies the kernel's rule for names of network devices (net/core/dev.c: dev_valid_name).
func validIfName(name string) error {
	bad := func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r) }
	if name == "" || len(name) > 15 || name == "." || name == ".." || strings.ContainsFunc(name, bad) {
		return fmt.Errorf("%q is no name for a network device: want 1 to 15 bytes without '/', ':' and white space", name)
	}
	return nil
}
