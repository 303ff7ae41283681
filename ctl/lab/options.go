package lab

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"
)

// Family says which addresses nodes and pods have.
type Family string

// The families.
const (
	IPv4      Family = "ipv4"
	IPv6      Family = "ipv6"
	DualStack Family = "dual-stack"
)

// V4 reports whether there are IPv4 addresses.
func (f Family) V4() bool { return f != IPv6 }

// V6 reports whether there are IPv6 addresses.
func (f Family) V6() bool { return f != IPv4 }

// Options say what a lab is like. The zero value of each field stands for its default.
type Options struct {
	Name        string // default "demo"; also the prefix of the namespaces' names
	Nodes       int    // nodes that Up makes: node1, node2 ...; more can be added later
	PodsPerNode int    // pods that Up attaches to each, with the label app=lab: node1-pod1 ...
	Proxy       string // --proxy of every twilld: "off" (the default) or "nftables"

	Family        Family          // default IPv4
	Routing                       // how nodes reach each other's pods
	BackendConfig json.RawMessage `json:",omitempty"` // more keys of the stored Backend object, for example {"VNI":7}
	Networks      []netip.Prefix  // the pods' networks, one a family; default 10.244.0.0/16 and fd00:244::/48
	NetworkConfig json.RawMessage // stored as it is, instead of what the four fields above say
	MTU           int             // of the underlay, in bytes; default 1500
	Subnets       int             // of the underlay, joined by a router; nodes are dealt out to them in turn; default 1

	BinDir     string   // holds twilld, twill, twill-ipam and twillctl; default: where the running twillctl is
	StateDir   string   // labs' directories are made in it; default /run/twill-lab
	DaemonArgs []string // more flags for every twilld
	DaemonEnv  []string // more environment for every twilld, as KEY=value

	ReadyTimeout  time.Duration // for etcd and for each daemon; default 30 s and half a second more for each of Nodes
	KeepOnFailure bool          // a failed Up leaves what it made, to be looked at; default: it removes everything

	Log      *slog.Logger   `json:"-"` // default: silent
	Progress func(Progress) `json:"-"` // called while Up works, from one goroutine at a time
}

// Progress is how far one stage of Up is.
type Progress struct {
	Stage       Stage
	Done, Total int
}

// Stage is a part of Up's work.
type Stage string

// The stages, in order of their end.
const (
	StageUnderlay Stage = "underlay"
	StageNodes    Stage = "nodes"
	StageEtcd     Stage = "etcd"
	StageDaemons  Stage = "daemons"
	StagePods     Stage = "pods"
)

var (
	validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,40}[a-z0-9])?$`)

	defaultNetworkV4 = netip.MustParsePrefix("10.244.0.0/16")
	defaultNetworkV6 = netip.MustParsePrefix("fd00:244::/48")
)

const (
	defaultStateDir = "/run/twill-lab"
	defaultName     = "demo"
	defaultMTU      = 1500
	baseTimeout     = 30 * time.Second
	nodeTimeout     = 500 * time.Millisecond // many daemons that start together share few processors
)

// complete fills the defaults in and checks the rest.
func (o Options) complete() (Options, error) {
	o.Name = cmp.Or(o.Name, defaultName)
	o.Family = cmp.Or(o.Family, IPv4)
	o.StateDir = cmp.Or(o.StateDir, defaultStateDir)
	o.MTU = cmp.Or(o.MTU, defaultMTU)
	o.Subnets = cmp.Or(o.Subnets, 1)
	o.ReadyTimeout = cmp.Or(o.ReadyTimeout, baseTimeout+time.Duration(o.Nodes)*nodeTimeout)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	if err := checkName("lab", o.Name); err != nil {
		return o, err
	}
	if !slices.Contains([]Family{IPv4, IPv6, DualStack}, o.Family) {
		return o, fmt.Errorf("family %q is not one of %s, %s, %s", o.Family, IPv4, IPv6, DualStack)
	}
	if o.Subnets < 1 || o.Subnets > maxSubnets {
		return o, fmt.Errorf("%d subnets: a lab has 1 to %d", o.Subnets, maxSubnets)
	}
	if o.Nodes < 0 || o.Nodes > o.maxNodes() {
		return o, fmt.Errorf("%d nodes: a lab of this many subnets has 0 to %d", o.Nodes, o.maxNodes())
	}
	var err error
	if o.Routing, err = o.Routing.complete(o.Nodes, o.Subnets); err != nil {
		return o, err
	}
	if o.PodsPerNode < 0 {
		return o, fmt.Errorf("%d pods per node: the number cannot be negative", o.PodsPerNode)
	}
	if o.MTU < 1280 || o.MTU > 65535 {
		return o, fmt.Errorf("MTU %d: it must lie between 1280 (the least that IPv6 needs) and 65535", o.MTU)
	}
	if o.NetworkConfig == nil {
		if o.NetworkConfig, err = networkConfig(o); err != nil {
			return o, err
		}
	}
	return o, nil
}

func checkName(what, name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%s name %q: want lower-case letters, digits and inner hyphens, at most 42", what, name)
	}
	return nil
}

// binDir returns the absolute directory of the programs, and checks that those that the lab itself starts are there.
func binDir(dir string) (string, error) {
	if dir == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find the programs: %w", err)
		}
		dir = filepath.Dir(self)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the programs: %w", err)
	}
	for _, program := range []string{"twilld", "twillctl"} {
		if _, err := os.Stat(filepath.Join(dir, program)); err != nil {
			return "", fmt.Errorf("find the programs (build them, or name their directory): %w", err)
		}
	}
	return dir, nil
}

// networkConfig renders flannel's network configuration.
func networkConfig(o Options) (json.RawMessage, error) {
	backend := map[string]any{}
	if o.BackendConfig != nil {
		if err := json.Unmarshal(o.BackendConfig, &backend); err != nil {
			return nil, fmt.Errorf("backend config %s: %w", o.BackendConfig, err)
		}
	}
	backend["Type"] = o.Backend
	v4, v6 := defaultNetworkV4, defaultNetworkV6
	for _, p := range o.Networks {
		switch {
		case p.Addr().Is4() && o.Family.V4():
			v4 = p.Masked()
		case p.Addr().Is6() && o.Family.V6():
			v6 = p.Masked()
		default:
			return nil, fmt.Errorf("network %v does not fit the family %s", p, o.Family)
		}
	}
	config := map[string]any{"Backend": backend, "EnableIPv4": o.Family.V4(), "EnableIPv6": o.Family.V6()}
	if o.Family.V4() {
		config["Network"] = v4
	}
	if o.Family.V6() {
		config["IPv6Network"] = v6
	}
	text, err := json.Marshal(config)
	if err != nil {
		return nil, fmt.Errorf("render the network config: %w", err)
	}
	return text, nil
}
