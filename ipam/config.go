package ipam

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

const (
	// DefaultDataDir is where leases are kept unless dataDir says otherwise: on the run directory's tmpfs, so that a reboot
	// leaves none behind.
	DefaultDataDir = "/run/twill/ipam"
	// DefaultQuarantine is for how long a released address rests unless quarantine says otherwise.
	DefaultQuarantine = 30 * time.Second

	maxQuarantine = 24 * time.Hour
)

// Config is the validated "ipam" object of a CNI network configuration, together with what else of that configuration
// concerns address management. It is not changed after ParseConfig made it.
type Config struct {
	Type       string        // of the IPAM plugin, as "twill-ipam"
	Sets       []RangeSet    // at least one; a lease holds one address of each
	Routes     []Route       // handed through to the result
	DataDir    string        // absolute; DefaultDataDir unless set
	ResolvConf string        // resolv.conf to take the result's DNS from; empty for none
	HostLocal  string        // directory of the reference host-local, whose addresses are passed over; empty for none
	Quarantine time.Duration // how long a released address rests while others are free
	IPs        []netip.Addr  // addresses asked for by runtimeConfig.ips and args.cni.ips
}

// Route is a route for the container, as the result's "routes" have it.
type Route struct {
	Dst      netip.Prefix // masked
	GW       netip.Addr   // zero: the gateway of the address's range
	MTU      int
	AdvMSS   int
	Priority int
	Table    *int
	Scope    *int
}

// The JSON forms. Addresses are read as strings so that an error can name the key and the value.
type (
	netconfJSON struct {
		IPAM          json.RawMessage `json:"ipam"`
		RuntimeConfig struct {
			IPs      []string          `json:"ips"`
			IPRanges []json.RawMessage `json:"ipRanges"`
		} `json:"runtimeConfig"`
		Args struct {
			CNI struct {
				IPs []string `json:"ips"`
			} `json:"cni"`
		} `json:"args"`
	}
	ipamJSON struct {
		rangeJSON
		Type       string        `json:"type"`
		Ranges     [][]rangeJSON `json:"ranges"`
		Routes     []routeJSON   `json:"routes"`
		DataDir    string        `json:"dataDir"`
		ResolvConf string        `json:"resolvConf"`
		HostLocal  string        `json:"hostLocalDir"`
		Quarantine *int64        `json:"quarantine"`
	}
	rangeJSON struct {
		Subnet     string `json:"subnet"`
		RangeStart string `json:"rangeStart"`
		RangeEnd   string `json:"rangeEnd"`
		Gateway    string `json:"gateway"`
	}
	routeJSON struct {
		Dst      string `json:"dst"`
		GW       string `json:"gw"`
		MTU      int    `json:"mtu"`
		AdvMSS   int    `json:"advmss"`
		Priority int    `json:"priority"`
		Table    *int   `json:"table"`
		Scope    *int   `json:"scope"`
	}
)

// ParseConfig reads and validates the "ipam" object of a network configuration, and the requests for addresses in its
// runtimeConfig and args. Unknown keys inside "ipam" are errors; the rest of the configuration is the main plugin's. An
// error names the key that is wrong.
//
// Range sets are numbered in this order: runtimeConfig.ipRanges, the single range of the old form, then ranges.
func ParseConfig(netconf []byte) (Config, error) {
	var doc netconfJSON
	if err := json.Unmarshal(netconf, &doc); err != nil {
		return Config{}, fmt.Errorf("network configuration: %w", err)
	}
	if len(doc.IPAM) == 0 || string(doc.IPAM) == "null" {
		return Config{}, errors.New(`network configuration: key "ipam" is missing`)
	}
	var in ipamJSON
	if err := strictUnmarshal(doc.IPAM, &in); err != nil {
		return Config{}, fmt.Errorf("ipam: %w", err)
	}
	cfg := Config{Type: in.Type, DataDir: DefaultDataDir, ResolvConf: in.ResolvConf, Quarantine: DefaultQuarantine}
	if err := cfg.parseSettings(in); err != nil {
		return Config{}, err
	}
	if err := cfg.parseSets(in, doc.RuntimeConfig.IPRanges); err != nil {
		return Config{}, err
	}
	for _, list := range []struct {
		key string
		ips []string
	}{{"args.cni.ips", doc.Args.CNI.IPs}, {"runtimeConfig.ips", doc.RuntimeConfig.IPs}} {
		for i, s := range list.ips {
			ip, err := parseIP(s)
			if err != nil {
				return Config{}, fmt.Errorf("%s[%d]: %w", list.key, i, err)
			}
			cfg.IPs = append(cfg.IPs, ip)
		}
	}
	return cfg, nil
}

// ParseForRelease is ParseConfig for callers that only release leases. From a configuration that ParseConfig refuses it takes the data
// directory, and the other fields stay zero: a range or a requested address that is wrong must not keep a lease from ending.
func ParseForRelease(netconf []byte) (Config, error) {
	cfg, err := ParseConfig(netconf)
	if err == nil {
		return cfg, nil
	}
	var doc struct {
		IPAM *struct {
			DataDir string `json:"dataDir"`
		} `json:"ipam"`
	}
	if json.Unmarshal(netconf, &doc) != nil || doc.IPAM == nil {
		return Config{}, err
	}
	cfg = Config{DataDir: DefaultDataDir}
	return cfg, cfg.parseDataDir(doc.IPAM.DataDir)
}

func strictUnmarshal(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// parseSettings takes over what is not a range.
func (c *Config) parseSettings(in ipamJSON) error {
	if err := c.parseDataDir(in.DataDir); err != nil {
		return err
	}
	if in.HostLocal != "" {
		if !filepath.IsAbs(in.HostLocal) {
			return fmt.Errorf("ipam.hostLocalDir: %q is not an absolute path", in.HostLocal)
		}
		c.HostLocal = filepath.Clean(in.HostLocal)
	}
	if in.Quarantine != nil {
		if *in.Quarantine < 0 || *in.Quarantine > int64(maxQuarantine/time.Second) {
			return fmt.Errorf("ipam.quarantine: %d is not between 0 and %d seconds", *in.Quarantine, int64(maxQuarantine/time.Second))
		}
		c.Quarantine = time.Duration(*in.Quarantine) * time.Second
	}
	for i, r := range in.Routes {
		route, err := parseRoute(r)
		if err != nil {
			return fmt.Errorf("ipam.routes[%d].%w", i, err)
		}
		c.Routes = append(c.Routes, route)
	}
	return nil
}

func (c *Config) parseDataDir(dir string) error {
	if dir == "" {
		return nil
	}
	if !filepath.IsAbs(dir) {
		return fmt.Errorf("ipam.dataDir: %q is not an absolute path", dir)
	}
	c.DataDir = filepath.Clean(dir)
	return nil
}

// parseSets builds the range sets from the three places that ranges can stand in, and compares all with one another.
func (c *Config) parseSets(in ipamJSON, runtime []json.RawMessage) error {
	var keys []string // of each set, for errors
	add := func(key string, ranges []rangeJSON) error {
		set, err := parseRangeSet(key, ranges)
		c.Sets, keys = append(c.Sets, set), append(keys, key)
		return err
	}
	for i, raw := range runtime {
		key := fmt.Sprintf("runtimeConfig.ipRanges[%d]", i)
		var ranges []rangeJSON
		if err := strictUnmarshal(raw, &ranges); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if err := add(key, ranges); err != nil {
			return err
		}
	}
	if in.rangeJSON != (rangeJSON{}) {
		if err := add("ipam", []rangeJSON{in.rangeJSON}); err != nil {
			return err
		}
	}
	for i, ranges := range in.Ranges {
		if err := add(fmt.Sprintf("ipam.ranges[%d]", i), ranges); err != nil {
			return err
		}
	}
	if len(c.Sets) == 0 {
		return errors.New(`ipam.ranges: no range is given; want ranges: [[{"subnet": "10.1.2.0/24"}]]`)
	}
	return checkSets(c.Sets, keys)
}

func parseRoute(in routeJSON) (Route, error) {
	out := Route{MTU: in.MTU, AdvMSS: in.AdvMSS, Priority: in.Priority, Table: in.Table, Scope: in.Scope}
	err := out.CheckNumbers()
	if err != nil {
		return Route{}, err
	}
	if out.Dst, err = parsePrefix(in.Dst); err != nil {
		return Route{}, fmt.Errorf("dst: %w", err)
	}
	if in.GW != "" {
		if out.GW, err = parseIP(in.GW); err != nil {
			return Route{}, fmt.Errorf("gw: %w", err)
		}
		if out.GW.Is4() != out.Dst.Addr().Is4() {
			return Route{}, fmt.Errorf("gw: %s is not of the family of dst %s", out.GW, out.Dst)
		}
	}
	return out, nil
}

// CheckNumbers returns an error that names the first number of the route which the kernel's fields (linux/rtnetlink.h) cannot hold: it would
// be cut off and mean something else.
func (r Route) CheckNumbers() error {
	zero := 0
	for _, n := range []struct {
		key   string
		value *int
		most  int
	}{{"mtu", &r.MTU, math.MaxUint16}, {"advmss", &r.AdvMSS, math.MaxUint16}, {"priority", &r.Priority, math.MaxUint32},
		{"table", cmp.Or(r.Table, &zero), math.MaxUint32}, {"scope", cmp.Or(r.Scope, &zero), math.MaxUint8}} {
		if *n.value < 0 || *n.value > n.most {
			return fmt.Errorf("%s: %d is not between 0 and %d", n.key, *n.value, n.most)
		}
	}
	return nil
}

// parsePrefix accepts a network in CIDR notation without host bits.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a network such as 10.1.2.0/24 or fd00::/64", s)
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4 network written as IPv6", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("%q has host bits set; the network is %s", s, p.Masked())
	}
	return p, nil
}

// parseIP accepts an address, also with a prefix length, which is ignored: the subnet of the range decides. An IPv4 address written
// as IPv6 is taken for IPv4.
func parseIP(s string) (netip.Addr, error) {
	text, _, hasLen := strings.Cut(s, "/")
	if hasLen {
		if _, err := netip.ParsePrefix(s); err != nil {
			return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
		}
	}
	ip, err := netip.ParseAddr(text)
	if err != nil || ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return ip.Unmap(), nil
}
