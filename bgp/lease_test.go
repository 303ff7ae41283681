package bgp

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

var compareAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func leaseOf(data, v6Data string) *store.Lease {
	l := &store.Lease{BackendType: BackendType, PublicIP: netip.MustParseAddr("192.0.2.1")}
	if data == "" {
		l.PublicIP, l.PublicIPv6 = netip.Addr{}, netip.MustParseAddr("2001:db8::1")
	} else {
		l.BackendData = json.RawMessage(data)
	}
	if v6Data != "" {
		l.BackendV6Data = json.RawMessage(v6Data)
	}
	return l
}

func TestLeaseData(t *testing.T) {
	full := LeaseData{
		AS: 4200000000, Node: "a", RouterID: netip.MustParseAddr("192.0.2.1"), Port: 1179, Labels: map[string]string{"rack": "r1"},
		Reflector: &LeaseReflector{ClusterID: netip.MustParseAddr("1.0.0.1"), Serves: Selector{Names: []string{"b"}, Labels: map[string]string{"x": "y"}}, Leaving: true},
		Hears:     []string{"r1", "r2"},
	}
	small := LeaseData{AS: 64512, Node: "a", RouterID: netip.MustParseAddr("192.0.2.1")}
	for _, tc := range []struct {
		name string
		data LeaseData
		want string
	}{
		{"little", small, `{"AS":64512,"Node":"a","RouterID":"192.0.2.1"}`},
		{"all", full, `{"AS":4200000000,"Node":"a","RouterID":"192.0.2.1","Port":1179,"Labels":{"rack":"r1"},` +
			`"Reflector":{"ClusterID":"1.0.0.1","Serves":{"Names":["b"],"Labels":{"x":"y"}},"Leaving":true},"Hears":["r1","r2"]}`},
		{"a reflector for all", LeaseData{AS: 1, Node: "a", RouterID: netip.MustParseAddr("1.1.1.1"), Reflector: &LeaseReflector{ClusterID: netip.MustParseAddr("1.0.0.1")}},
			`{"AS":1,"Node":"a","RouterID":"1.1.1.1","Reflector":{"ClusterID":"1.0.0.1"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			raw, err := tc.data.Encode()
			if err != nil || string(raw) != tc.want {
				t.Fatalf("Encode: %s, %v, want %s", raw, err, tc.want)
			}
			for _, l := range []*store.Lease{leaseOf(tc.want, ""), leaseOf("", tc.want), leaseOf(tc.want, `{"VtepMAC":"02:00:00:00:00:01"}`)} {
				got, err := DecodeLease(l)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.data, got, compareAddr); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
	withOverlay := `{"AS":64512,"Node":"a","RouterID":"192.0.2.1","VNI":1,"VtepMAC":"02:00:00:00:00:01","Later":[1]}`
	if got, err := DecodeLease(leaseOf(withOverlay, "")); err != nil || got.Node != "a" {
		t.Errorf("keys of others: %+v, %v", got, err)
	}
}

func TestLeaseDataThatIsRefused(t *testing.T) {
	vxlan := leaseOf(`{"VtepMAC":"02:00:00:00:00:01"}`, "")
	vxlan.BackendType = "vxlan"
	for _, tc := range []struct {
		name  string
		lease *store.Lease
		want  string
	}{
		{"another backend", vxlan, `backend type is "vxlan", not "bgp"`},
		{"no data", leaseOf("", ""), "no backend data"},
		{"no object", leaseOf("[]", ""), "backend data: json"},
		{"no AS", leaseOf(`{"Node":"a","RouterID":"192.0.2.1"}`, ""), "AS: have 0"},
		{"large AS", leaseOf(`{"AS":4294967296}`, ""), "backend data: json"},
		{"no name", leaseOf(`{"AS":1,"RouterID":"192.0.2.1"}`, ""), "Node: want a name"},
		{"no router ID", leaseOf(`{"AS":1,"Node":"a"}`, ""), `RouterID: have ""`},
		{"IPv6 router ID", leaseOf(`{"AS":1,"Node":"a","RouterID":"::1"}`, ""), `RouterID: have "::1"`},
		{"no cluster ID", leaseOf(`{"AS":1,"Node":"a","RouterID":"192.0.2.1","Reflector":{}}`, ""), "Reflector.ClusterID"},
		{"long name", leaseOf(`{"AS":1,"RouterID":"192.0.2.1","Node":"`+strings.Repeat("a", 254)+`"}`, ""), "Node: want a name"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := DecodeLease(tc.lease); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("the error is %v, want %s", err, tc.want)
			}
		})
	}
	if _, err := (LeaseData{}).Encode(); err == nil {
		t.Error("Encode of nothing: no error")
	}
}

func TestSelector(t *testing.T) {
	labels := map[string]string{"rack": "r1", "edge": ""}
	for _, tc := range []struct {
		name string
		s    Selector
		want bool
	}{
		{"empty", Selector{}, true},
		{"name", Selector{Names: []string{"b", "a"}}, true},
		{"another name", Selector{Names: []string{"b"}}, false},
		{"label", Selector{Labels: map[string]string{"rack": "r1"}}, true},
		{"another value", Selector{Labels: map[string]string{"rack": "r2"}}, false},
		{"one of two labels", Selector{Labels: map[string]string{"rack": "r1", "zone": "z"}}, false},
		{"empty value", Selector{Labels: map[string]string{"edge": ""}}, true},
		{"empty value of no label", Selector{Labels: map[string]string{"none": ""}}, false},
		{"name and another label", Selector{Names: []string{"a"}, Labels: map[string]string{"rack": "r2"}}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := tc.s.Matches("a", labels); got != tc.want {
				t.Errorf("Matches = %v", got)
			}
		})
	}
}

func FuzzDecodeLease(f *testing.F) {
	f.Add(`{"AS":64512,"Node":"a","RouterID":"192.0.2.1","Reflector":{"ClusterID":"1.0.0.1","Serves":{"Labels":{"a":"b"}}},"Hears":["b"]}`)
	f.Add(`{"AS":1,"VNI":1,"VtepMAC":"x"}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := DecodeLease(leaseOf(text, ""))
		if err != nil {
			return
		}
		raw, err := d.Encode()
		if err != nil {
			t.Fatalf("accepted %+v, which is refused when written: %v", d, err)
		}
		again, err := DecodeLease(leaseOf(string(raw), ""))
		if err != nil {
			t.Fatal(err)
		}
		if second, err := again.Encode(); err != nil || string(second) != string(raw) {
			t.Errorf("%s became %s, %v", raw, second, err)
		}
	})
}
