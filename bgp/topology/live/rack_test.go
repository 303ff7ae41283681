package live_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/bgp/gobgp"
	"github.com/twill-cni/twill/bgp/gobgp/peertest"
	"github.com/twill-cni/twill/bgp/topology"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

func TestMain(m *testing.M) { os.Exit(peertest.Main(m)) }

const (
	nodeAddress = "192.0.2.1"
	torAddress  = "192.0.2.126"
	password    = "the-line-in-tor.key"
)

// example returns the part of the page that the expression finds.
func example(t *testing.T, expression string) string {
	t.Helper()
	data, err := os.ReadFile("../../../docs/bgp.md")
	if err != nil {
		t.Fatal(err)
	}
	const heading = "## Example: top-of-rack routers"
	_, section, _ := strings.Cut(string(data), heading)
	found := regexp.MustCompile(expression).FindStringSubmatch(section)
	if found == nil {
		t.Fatalf("docs/bgp.md has nothing like %s below %q", expression, heading)
	}
	return found[1]
}

// run runs a speaker with the plan until the test's end.
func run(t *testing.T, p topology.Plan) *gobgp.Speaker {
	t.Helper()
	speaker := gobgp.New(slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- speaker.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	set(t, speaker, p)
	return speaker
}

func set(t *testing.T, speaker *gobgp.Speaker, p topology.Plan) {
	t.Helper()
	if err := speaker.Set(t.Context(), p.Instance); err != nil {
		t.Fatal(err)
	}
}

// plan is that of a node of rack r1. change edits the configuration.
func plan(t *testing.T, change *strings.Replacer) topology.Plan {
	t.Helper()
	key := filepath.Join(t.TempDir(), "tor.key")
	if err := os.WriteFile(key, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Parse([]byte(change.Replace(strings.ReplaceAll(example(t, "(?s)```yaml\n(.*?)```"), "/etc/twill/tor.key", key))))
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"rack": "r1"}
	passwords, err := config.ReadPasswords(cfg.PasswordFiles("node1", labels))
	if err != nil {
		t.Fatal(err)
	}
	p := topology.Make(topology.Input{
		PlanInput: bgp.PlanInput{
			Uplink: kernel.Uplink{Name: "br0", Addresses: []netip.Prefix{netip.MustParsePrefix(nodeAddress + "/25")}},
			Self:   &store.Lease{Subnet: netip.MustParsePrefix("10.5.1.0/24"), PublicIP: netip.MustParseAddr(nodeAddress)},
		},
		Network: store.Network{EnableIPv4: true, IPv4: store.Pool{Network: netip.MustParsePrefix("10.5.0.0/16"), SubnetLen: 24}},
		Config:  cfg, Node: cfg.Node("node1", labels, config.NodeSettings{}), Passwords: passwords, Now: time.Now(),
	})
	if len(p.Rejects) > 0 || len(p.Instance.Peers) != 1 {
		t.Fatalf("peers %v, rejects %v", p.Instance.Peers, p.Rejects)
	}
	return p
}

func TestTopOfRack(t *testing.T) {
	for _, tc := range []struct {
		name      string
		node, frr *strings.Replacer
		bfd       string
	}{
		{"nodes by name", strings.NewReplacer(), strings.NewReplacer(), "Up"},
		{
			"nodes by range, without BFD",
			strings.NewReplacer("bfd: {transmit: 300ms, receive: 300ms, multiplier: 3}", "bfd: {enabled: false}"),
			strings.NewReplacer(" neighbor 192.0.2.1 peer-group NODES\n", " bgp listen range 192.0.2.0/25 peer-group NODES\n", " neighbor 192.0.2.2 peer-group NODES\n", "",
				" neighbor NODES bfd\n", "", " neighbor NODES bfd profile nodes\n", ""),
			"",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testTopOfRack(t, plan(t, tc.node), tc.frr.Replace(example(t, "(?s)```\n(! /etc/frr.*?)```")), tc.bfd)
		})
	}
}

func testTopOfRack(t *testing.T, p topology.Plan, conf, bfd string) {
	segment := peertest.NewSegment(t, nodeAddress+"/25")
	frr := peertest.StartFRR(t, segment.Host(torAddress+"/25"), conf)
	frr.Ctl("configure terminal", "bfd", "profile nodes", "transmit-interval 300", "receive-interval 300", "detect-multiplier 3")

	speaker := run(t, p)

	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sessions: %+v\n%s", speaker.Sessions(), frr.Ctl("show bgp neighbors", "show bfd peers"))
		}
	})
	peertest.Eventually(t, "the session is up, and BFD where it is on", 20*time.Second, func() bool {
		s := speaker.Sessions()
		return len(s) == 1 && s[0].Established() && s[0].EndOfRIB && s[0].BFD == bfd
	})
	peertest.Eventually(t, "the router has the pods", 5*time.Second, func() bool { return frr.Has("ipv4", "10.5.1.0/24", nodeAddress) })
	if paths := frr.Paths("ipv4", "10.5.1.0/24"); paths[0].Community.String != "64512:100" || paths[0].ASPath.String != "64512" {
		t.Errorf("the router has %+v", paths)
	}
	peertest.Eventually(t, "the node has the default route", 5*time.Second, func() bool {
		for _, r := range speaker.Learned() {
			if r.Prefix == netip.MustParsePrefix("0.0.0.0/0") && len(r.NextHops) == 1 && r.NextHops[0] == netip.MustParseAddr(torAddress) {
				return true
			}
		}
		return false
	})
}
