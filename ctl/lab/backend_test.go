package lab

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoutingDefaults(t *testing.T) {
	tests := []struct {
		name    string
		routing Routing
		subnets int
		want    Routing
	}{
		{"nothing", Routing{}, 1, Routing{Backend: VXLAN}},
		{"VXLAN in two subnets", Routing{}, 2, Routing{Backend: VXLAN}},
		{"another backend is the daemon's business", Routing{Backend: "other"}, 1, Routing{Backend: "other"}},
		{"BGP", Routing{Backend: BGP}, 1, Routing{Backend: BGP, Overlay: OverlayNever}},
		{"BGP in two subnets", Routing{Backend: BGP}, 2, Routing{Backend: BGP, Overlay: OverlayCrossSubnet}},
		{"BGP in two subnets that a router joins", Routing{Backend: BGP, ToR: true}, 2, Routing{Backend: BGP, Overlay: OverlayNever, ToR: true}},
		{"what is said stays", Routing{Backend: BGP, Overlay: OverlayAlways, Reflectors: 3}, 2, Routing{Backend: BGP, Overlay: OverlayAlways, Reflectors: 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.routing.complete(3, tt.subnets)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			again, err := got.complete(3, tt.subnets)
			if err != nil || again != got {
				t.Errorf("completed again: %+v, %v", again, err)
			}
		})
	}
}

func TestWithBackend(t *testing.T) {
	tests := []struct{ name, config, want, err string }{
		{"another type", `{"Network":"10.0.0.0/8","Backend":{"VNI":7,"Type":"vxlan"}}`, `{"Backend":{"Type":"bgp","VNI":7},"Network":"10.0.0.0/8"}`, ""},
		{"no backend", `{"Network":"10.0.0.0/8"}`, `{"Backend":{"Type":"bgp"},"Network":"10.0.0.0/8"}`, ""},
		{"no JSON", `{`, "", "read the network config"},
		{"null", `null`, "", "null"},
		{"null backend", `{"Backend":null}`, "", "null"},
		{"list", `{"Backend":[]}`, "", "read Backend"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := withBackend(json.RawMessage(tt.config), BGP)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("got %v, want %q in it", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBGPConfig(t *testing.T) {
	tests := []struct {
		name    string
		options Options
		want    string
	}{
		{"one subnet", Options{}, "as: 64512\noverlay: never\n"},
		{"two subnets", Options{Subnets: 2}, "as: 64512\noverlay: cross-subnet\n"},
		{"reflectors", Options{Nodes: 3, Routing: Routing{Reflectors: 2}}, `as: 64512
nodes:
- match:
    names:
    - node1
    - node2
  reflector:
    clusterID: 1.0.0.1
overlay: never
`},
		{"router of the second subnet", Options{Subnets: 2, Family: DualStack, Routing: Routing{ToR: true}}, `as: 64512
overlay: never
peers:
- address: 172.30.2.254
  as: 65000
  name: tor
`},
		{"router, IPv6", Options{Subnets: 2, Family: IPv6, Routing: Routing{ToR: true}}, `as: 64512
overlay: never
peers:
- address: fd00:30:0:2::fe
  as: 65000
  name: tor
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.options.Backend = BGP
			o, err := tt.options.complete()
			if err != nil {
				t.Fatal(err)
			}
			got, err := o.bgpConfig(o.subnet(o.subnetOf(2)))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestStages(t *testing.T) {
	vxlan := Routing{Backend: VXLAN}
	bgp := func(o Overlay) Routing { return Routing{Backend: BGP, Overlay: o} }
	never, cross, always := bgp(OverlayNever), bgp(OverlayCrossSubnet), bgp(OverlayAlways)
	reflected := Routing{Backend: BGP, Overlay: OverlayNever, Reflectors: 2}
	routed, routedToo := Routing{Backend: BGP, Overlay: OverlayNever, ToR: true}, Routing{Backend: BGP, Overlay: OverlayCrossSubnet, ToR: true}
	tests := []struct {
		name     string
		from, to Routing
		want     []Routing
	}{
		{"the same", vxlan, vxlan, []Routing{vxlan}},
		{"to BGP that speaks VXLAN too", vxlan, cross, []Routing{cross}},
		{"to BGP that encapsulates", vxlan, always, []Routing{always}},
		{"to plain BGP", vxlan, never, []Routing{cross, never}},
		{"to plain BGP with reflectors", vxlan, reflected, []Routing{{Backend: BGP, Overlay: OverlayCrossSubnet, Reflectors: 2}, reflected}},
		{"back", cross, vxlan, []Routing{vxlan}},
		{"back from plain BGP", never, vxlan, []Routing{cross, vxlan}},
		{"back from plain BGP with reflectors", reflected, vxlan,
			[]Routing{{Backend: BGP, Overlay: OverlayCrossSubnet, Reflectors: 2}, vxlan}},
		{"mesh to reflectors", never, reflected, []Routing{reflected}},
		{"plain BGP by way of the router", cross, routed, []Routing{routedToo, routed}},
		{"the router is there", routedToo, routed, []Routing{routed}},
		{"back from the router", routed, cross, []Routing{routedToo, cross}},
		{"VXLAN to the router", vxlan, routed, []Routing{routedToo, routed}},
		{"overlay off", always, never, []Routing{cross, never}},
		{"overlay on", never, cross, []Routing{cross}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, stages(tt.from, tt.to)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRoutingInWords(t *testing.T) {
	for want, r := range map[string]Routing{
		"vxlan":                      {Backend: VXLAN},
		"bgp (overlay cross-subnet)": {Backend: BGP, Overlay: OverlayCrossSubnet},
		"bgp (overlay never, reflectors 2, top-of-rack router)": {Backend: BGP, Overlay: OverlayNever, Reflectors: 2, ToR: true},
	} {
		if r.String() != want {
			t.Errorf("got %q, want %q", r, want)
		}
	}
}
