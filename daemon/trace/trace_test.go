package trace

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/path"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func link(name string, mtu int, mac string, addresses ...string) path.Link {
	l := path.Link{Name: name, Found: true, Up: true, Carrier: true, MTU: mtu, MAC: mac}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, netip.MustParsePrefix(a))
	}
	return l
}

// viewOf is what node n (1 or 2) holds when all is well; o is the other one.
func viewOf(n, o string, vxlan bool) *path.View {
	pod, other := addr("10.244."+n+".2"), addr("10.244."+o+".2")
	v := &path.View{
		Host: link("veth1", 1450, "02:00:00:00:01:0"+n), Bridge: link("cni0", 1450, "02:00:00:00:02:0"+n, "10.244."+n+".1/24"),
		Uplink: link("eth0", 1500, "02:00:00:00:03:0"+n, "192.0.2.1"+n+"/24"), Forwarding: true,
	}
	v.Host.Master = "cni0"
	gateway := addr("10.244." + n + ".1")
	v.Pod = path.Inside{Link: link("eth0", 1450, "02:00:00:00:04:0"+n, pod.String()+"/24"),
		Route: path.Route{To: other, Gateway: gateway, Device: "eth0", Neighbor: path.Neighbor{Address: gateway, Found: true, MAC: v.Bridge.MAC, State: "reachable"}}}
	uplink := path.Neighbor{Address: addr("192.0.2.1" + o), Found: true, MAC: "02:00:00:00:03:0" + o, State: "reachable"}
	v.Out = path.Route{Source: pod, To: other, Incoming: "cni0", Prefix: netip.MustParsePrefix("10.244." + o + ".0/24"), Protocol: kernel.RouteProtocol,
		Gateway: uplink.Address, Device: "eth0", Link: v.Uplink, Neighbor: uplink}
	in := path.Route{Source: other, To: pod, Incoming: "eth0", Prefix: netip.MustParsePrefix("10.244." + n + ".0/24"), Device: "cni0", Link: v.Bridge,
		Neighbor: path.Neighbor{Address: pod, Found: true, MAC: v.Pod.Link.MAC, State: "stale"}}
	v.In = []path.Route{in}
	if !vxlan {
		return v
	}
	v.Overlay = &path.Overlay{Link: link("flannel.1", 1450, "02:00:00:00:05:0"+n, "10.244."+n+".0/32"), VNI: 1, Port: 8472, Local: addr("192.0.2.1" + n)}
	in.Incoming = "flannel.1"
	v.In = append(v.In, in)
	vtep := addr("10.244." + o + ".0")
	v.Out.Gateway, v.Out.Device, v.Out.Link = vtep, "flannel.1", v.Overlay.Link
	v.Out.Neighbor = path.Neighbor{Address: vtep, Found: true, MAC: "02:00:00:00:05:0" + o, State: "permanent"}
	v.Out.FDB = []netip.Addr{addr("192.0.2.1" + o)}
	v.Out.Underlay = &path.Route{To: addr("192.0.2.1" + o), Prefix: netip.MustParsePrefix("192.0.2.0/24"), Device: "eth0", Link: v.Uplink, Neighbor: uplink}
	return v
}

func caseOf(vxlan bool) Case {
	return Case{
		From:   End{Pod: "a/a", Node: "node1", Address: addr("10.244.1.2")},
		To:     End{Pod: "b/b", Node: "node2", Address: addr("10.244.2.2"), Port: 80},
		Source: viewOf("1", "2", vxlan), Target: viewOf("2", "1", vxlan),
		Probe: Outcome{Asked: true, Answered: true}, Large: Outcome{Asked: true, Answered: true, Size: 1450},
	}
}

func TestHealthy(t *testing.T) {
	for name, vxlan := range map[string]bool{"vxlan": true, "bgp": false} {
		r := Judge(caseOf(vxlan))
		for _, h := range r.Hops {
			if h.State != OK {
				t.Errorf("%s: %+v", name, h)
			}
		}
		if r.Failure != nil || len(r.Hops) < 15 {
			t.Errorf("%s: %d hops, failure %+v", name, len(r.Hops), r.Failure)
		}
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name  string
		bgp   bool
		fault func(c *Case)
		want  string // node, hop, "reply" or "", and a word of the mend
	}{
		{"pod's link down", false, func(c *Case) { c.Source.Pod.Link.Up = false }, "node1 pod  up"},
		{"pod without its address", false, func(c *Case) { c.Target.Pod.Link.Addresses = nil }, "node2 pod  attached"},
		{"pod without a route", false, func(c *Case) { c.Source.Pod.Route = path.Route{Refused: path.NoRoute} }, "node1 pod  default"},
		{"pod with a wrong neighbour", false, func(c *Case) { c.Source.Pod.Route.Neighbor.MAC = "02:00:00:00:99:99" }, "node1 pod  neigh"},
		{"pod's link down, seen from its node", false, func(c *Case) {
			c.Target.Pod.Link.Up, c.Target.Host.Carrier, c.Target.Bridge.Carrier = false, false, false
		}, "node2 pod  up"},
		{"veth down", false, func(c *Case) { c.Source.Host.Up, c.Source.Pod.Link.Carrier = false, false }, "node1 veth  up"},
		{"veth missing", false, func(c *Case) { c.Source.Host.Found = false }, "node1 veth  attached"},
		{"veth out of the bridge", false, func(c *Case) { c.Target.Host.Master = "" }, "node2 veth  master"},
		{"veth MTU", false, func(c *Case) { c.Target.Host.MTU = 1300 }, "node2 mtu  1450"},
		{"bridge down", false, func(c *Case) { c.Source.Bridge.Up = false }, "node1 bridge  up"},
		{"bridge down, and an aggregate behind it", true, func(c *Case) {
			c.Target.Bridge.Up, c.Target.In[0].Refused = false, path.Blackhole
		}, "node2 bridge  up"},
		{"bridge without address", false, func(c *Case) { c.Target.Bridge.Addresses = nil }, "node2 bridge  addr"},
		{"bridge MTU", false, func(c *Case) { c.Target.Bridge.MTU = 1400 }, "node2 mtu  1450"},
		{"no forwarding", false, func(c *Case) { c.Source.Forwarding, c.Source.Sysctl = false, "net.ipv4.ip_forward" }, "node1 forwarding  net.ipv4.ip_forward=1"},
		{"no IPv6", false, func(c *Case) { c.Target.Forwarding, c.Target.Sysctl = false, "net.ipv6.conf.cni0.disable_ipv6" }, "node2 forwarding  =0"},
		{"uplink down", false, func(c *Case) { c.Source.Uplink.Carrier = false }, "node1 uplink  cable"},
		{"overlay down", false, func(c *Case) { c.Target.Overlay.Up = false }, "node2 overlay  up"},
		{"overlay missing", false, func(c *Case) {
			c.Source.Overlay, c.Source.Out.Device, c.Source.Out.Prefix = nil, "eth0", netip.MustParsePrefix("0.0.0.0/0")
		}, "node1 overlay  twilld"},
		{"VNI", false, func(c *Case) { c.Target.Overlay.VNI = 2 }, "node1 overlay  config"},
		{"port", false, func(c *Case) { c.Target.Overlay.Port = 4789 }, "node1 overlay  config"},
		{"route missing", false, func(c *Case) {
			c.Source.Out.Prefix, c.Source.Out.Gateway, c.Source.Out.Device, c.Source.Out.Protocol = netip.MustParsePrefix("0.0.0.0/0"), addr("192.0.2.1"), "eth0", 3
		}, "node1 route  10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink"},
		{"no route at all", true, func(c *Case) { c.Source.Out = path.Route{Refused: path.NoRoute} }, "node1 route  10.244.2.0/24 via 192.0.2.12 dev eth0"},
		{"blackhole", false, func(c *Case) { c.Source.Out.Refused = path.Blackhole }, "node1 route  del blackhole"},
		{"wrong next hop", true, func(c *Case) { c.Source.Out.Gateway = addr("192.0.2.99") }, "node1 route  replace"},
		{"foreign route", false, func(c *Case) { c.Target.Out.Gateway, c.Target.Out.Protocol = addr("10.244.7.0"), 3 }, "node2 route reply del"},
		{"rp_filter", false, func(c *Case) { c.Target.In[1].Refused = path.ReversePath }, "node2 rp_filter  flannel/1"},
		{"rp_filter at the source", true, func(c *Case) { c.Source.Out.Refused = path.ReversePath }, "node1 rp_filter  rp_filter=2"},
		{"neighbour missing", false, func(c *Case) { c.Source.Out.Neighbor = path.Neighbor{} }, "node1 neighbour  02:00:00:00:05:02"},
		{"wrong VTEP MAC", false, func(c *Case) { c.Source.Out.Neighbor.MAC = "02:00:00:00:05:09" }, "node1 neighbour  02:00:00:00:05:02"},
		{"neighbour of the uplink", true, func(c *Case) { c.Source.Out.Neighbor.MAC = "02:00:00:00:05:09" }, "node1 neighbour  neigh del"},
		{"no answer on the uplink", true, func(c *Case) { c.Target.Out.Neighbor.State = "failed" }, "node2 neighbour reply cable"},
		{"FDB entry missing", false, func(c *Case) { c.Source.Out.FDB = nil }, "node1 fdb  192.0.2.12"},
		{"FDB entry wrong", false, func(c *Case) { c.Target.Out.FDB = []netip.Addr{addr("192.0.2.77")} }, "node2 fdb reply 192.0.2.11"},
		{"underlay", false, func(c *Case) {
			*c.Source.Out.Underlay = path.Route{Refused: path.Blackhole, Prefix: netip.MustParsePrefix("192.0.2.12/32")}
		}, "node1 underlay  192.0.2.12/32"},
		{"underlay by way of another", false, func(c *Case) { c.Source.Out.Underlay.Gateway = addr("192.0.2.50") }, "node1 underlay  del"},
		{"overlay MTU", false, func(c *Case) { c.Source.Out.Link.MTU = 1200 }, "node1 mtu  1450"},
		{"uplink MTU", false, func(c *Case) { c.Target.Out.Underlay.Link.MTU = 1400 }, "node2 mtu reply 1500"},
		{"arrival blackhole", false, func(c *Case) { c.Target.In[1].Refused = path.Blackhole }, "node2 arrival  del"},
		{"arrival elsewhere", true, func(c *Case) { c.Source.In[0].Device = "eth1" }, "node1 arrival reply del"},
		{"pod's neighbour", false, func(c *Case) {
			for i := range c.Target.In {
				c.Target.In[i].Neighbor.MAC = "02:00:00:00:99:99"
			}
		}, "node2 neighbour  del"},
		{"foreign chain", false, func(c *Case) {
			c.Probe.Answered, c.Target.Chains = false, []path.Chain{{Family: "ip", Table: "filter", Name: "FORWARD", Drops: true}}
		}, "node2 filter  nft list chain ip filter FORWARD"},
		{"no endpoint", false, func(c *Case) {
			c.Service, c.To, c.Target = &Hop{Node: "node1", What: Service, State: Failed, Mend: "pods"}, End{}, nil
		}, "node1 service  pods"},
		{"policy", false, func(c *Case) { c.Ingress = &Hop{Node: "node2", What: Policy, State: Failed, Mend: "allow"} }, "node2 policy  allow"},
		{"large packets", false, func(c *Case) { c.Large.Answered = false }, "node1 mtu  ping -M do"},
		{"nothing but silence", false, func(c *Case) { c.Probe.Answered = false }, "node1 probe  nft list ruleset"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := caseOf(!tt.bgp)
			tt.fault(&c)
			f := Judge(c).Failure
			if f == nil {
				t.Fatal("nothing is wrong")
			}
			want := strings.SplitN(tt.want, " ", 4)
			if f.Node != want[0] || f.What != want[1] || f.Reply != (want[2] == "reply") || !strings.Contains(f.Mend, want[3]) {
				t.Errorf("got %+v, want %v", *f, want)
			}
		})
	}
}

func TestSuspicionsNeedSilence(t *testing.T) {
	c := caseOf(true)
	c.Source.Chains = []path.Chain{{Family: "ip", Table: "filter", Name: "FORWARD", Drops: true}}
	if f := Judge(c).Failure; f != nil {
		t.Errorf("with an answer: %+v", *f)
	}
}

func TestOutside(t *testing.T) {
	c := caseOf(true)
	c.To, c.Target = End{Address: addr("203.0.113.9"), Port: 443}, nil
	c.Source.Out = path.Route{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Device: "eth0", Gateway: addr("192.0.2.1"), Link: c.Source.Uplink}
	c.Source.Overlay.Up = false
	if f := Judge(c).Failure; f != nil {
		t.Errorf("by the uplink: %+v", *f)
	}
	c.Probe.Answered = false
	if f := Judge(c).Failure; f == nil || f.What != Overlay {
		t.Errorf("without an answer: %+v", f)
	}
}

func TestSameNode(t *testing.T) {
	c := caseOf(true)
	c.To.Node, c.Target.Out = c.From.Node, path.Route{}
	if f := Judge(c).Failure; f != nil {
		t.Errorf("%+v", *f)
	}
}
