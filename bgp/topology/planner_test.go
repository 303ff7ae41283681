package topology

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/bgp"
	"github.com/twill-cni/twill/bgp/config"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/store"
)

func options() Options {
	return Options{
		Network: network, Config: config.Default(), Now: func() time.Time { return start },
		Record: store.NodeRecord{Name: "n0", Labels: map[string]string{"rack": "r1", "secret": "x"}},
	}
}

func planner(t *testing.T, opts Options, before *Planner) *Planner {
	t.Helper()
	return New(opts, before)
}

func TestAttributes(t *testing.T) {
	dual := network
	dual.EnableIPv6, dual.IPv6 = true, store.Pool{Network: prefix("fd00:5::/48"), SubnetLen: 64}
	six := dual
	six.EnableIPv4 = false
	uplink := kernel.Uplink{Name: "eth0", Addresses: []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64")}}
	const v4 = `{"AS":64512,"Node":"n0","RouterID":"192.0.2.1"}`
	for _, tc := range []struct {
		name    string
		network store.Network
		change  func(*Options)
		want    store.Attributes
	}{
		{"IPv4", network, nil, store.Attributes{PublicIP: addr("192.0.2.1"), BackendData: json.RawMessage(v4)}},
		{"dual stack", dual, nil, store.Attributes{PublicIP: addr("192.0.2.1"), PublicIPv6: addr("2001:db8::1"), BackendData: json.RawMessage(v4)}},
		{"public address", network, func(o *Options) { o.PublicIP = addr("203.0.113.1") },
			store.Attributes{PublicIP: addr("203.0.113.1"), BackendData: json.RawMessage(`{"AS":64512,"Node":"n0","RouterID":"203.0.113.1"}`)}},
		{"IPv6", six, func(o *Options) { o.Record.BGP = json.RawMessage(`{"routerID":"1.2.3.4"}`) },
			store.Attributes{PublicIPv6: addr("2001:db8::1"), BackendV6Data: json.RawMessage(`{"AS":64512,"Node":"n0","RouterID":"1.2.3.4"}`)}},
		{"record", network, func(o *Options) {
			o.Record.BGP = json.RawMessage(`{"as":65001,"port":1790,"reflector":{"serves":{"names":["b"]}}}`)
		}, store.Attributes{PublicIP: addr("192.0.2.1"), BackendData: json.RawMessage(
			`{"AS":65001,"Node":"n0","RouterID":"192.0.2.1","Port":1790,"Reflector":{"ClusterID":"192.0.2.1","Serves":{"Names":["b"]}}}`)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opts := options()
			opts.Network = tc.network
			if tc.change != nil {
				tc.change(&opts)
			}
			tc.want.NodeName, tc.want.BackendType = "n0", "bgp"
			got, err := planner(t, opts, nil).Attributes(uplink)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, same0); diff != "" {
				t.Error(diff)
			}
		})
	}
	opts := options()
	opts.Network = dual
	_, err := planner(t, opts, nil).Attributes(kernel.Uplink{Name: "eth0", Addresses: uplink.Addresses[:1]})
	if err == nil || err.Error() != "uplink eth0 has no IPv6 address, but the network has IPv6 enabled" {
		t.Errorf("err = %v", err)
	}
}

func TestAPlannerRemembers(t *testing.T) {
	in := input(t, "", member(1, `,"Reflector":{"ClusterID":"1.1.1.1","Serves":{"Labels":{"rack":"r1"}}}`)).PlanInput
	in.Sessions = []bgp.SessionState{{Address: addrOf(1), State: "Established", EndOfRIB: true, Since: start.Add(-time.Minute)}}
	p := planner(t, options(), nil)
	first := p.Plan(in)
	want := &bgp.LeaseData{AS: 64512, Node: "n0", RouterID: addr("192.0.2.1"), Labels: map[string]string{"rack": "r1"}, Hears: []string{"n1"}}
	if diff := cmp.Diff(want, first.Publish, same0); diff != "" {
		t.Fatal(diff)
	}
	if again := p.Plan(in); again.Publish != nil {
		t.Errorf("the same is published again: %+v", again.Publish)
	}

	// What was published outlives the configuration, and the state of sessions before End-of-RIB.
	in.Sessions[0].EndOfRIB = false
	next := planner(t, options(), p)
	attrs, err := next.Attributes(in.Uplink)
	if err != nil || !strings.Contains(string(attrs.BackendData), `"Hears":["n1"]`) {
		t.Errorf("Attributes: %s, %v", attrs.BackendData, err)
	}
	if plan := next.Plan(in); plan.Publish != nil {
		t.Errorf("something else is published: %+v", plan.Publish)
	}
}

// A record that cannot be read leaves in force the last one that could be, or none; its labels count.
func TestARecordThatCannotBeRead(t *testing.T) {
	in := input(t, "").PlanInput
	var before *Planner
	for _, tc := range []struct {
		name, record string
		as           uint32
		wrong        bool
	}{
		{"wrong at the start", `{"as":0}`, 64512, true},
		{"mended", `{"as":65001}`, 65001, false},
		{"wrong", `{"as":0}`, 65001, true},
		{"wrong in another way", `{"sa":1}`, 65001, true},
		{"gone", ``, 64512, false},
		{"wrong again", `{"as":0}`, 64512, true},
	} {
		opts := options()
		opts.Record.BGP, opts.Record.Labels = json.RawMessage(tc.record), map[string]string{"is": tc.name}
		p := New(opts, before)
		plan := p.Plan(in)
		if plan.Instance.AS != tc.as || p.node.Labels["is"] != tc.name {
			t.Errorf("%s: the AS is %d, want %d; labels %v", tc.name, plan.Instance.AS, tc.as, p.node.Labels)
		}
		switch {
		case !tc.wrong && len(plan.Rejects) == 0:
		case tc.wrong && len(plan.Rejects) == 1 && plan.Rejects[0].Key == "record of node n0" && strings.Contains(plan.Rejects[0].Err.Error(), "BGP settings of the node: "):
		default:
			t.Errorf("%s: rejects %v", tc.name, plan.Rejects)
		}
		before = p
	}
}
