package attach

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/plugins/netconf"
)

var sameAddr = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// What the runtime says of the pod is in the record, for the daemon.
func TestRecordTellsOfThePod(t *testing.T) {
	n := newNode(t, "/ns/a")
	r := plain("a", "/ns/a")
	r.Args = netconf.Args{Pod: "shop/web", PodUID: "u"}
	r.Config.Labels, r.Config.Ports = map[string]string{"app": "web"}, []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}}
	if _, err := n.plugin().Add(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	have := n.records[r.Owner]
	want := Record{Pod: "shop/web", PodUID: "u", Labels: r.Config.Labels, Ports: r.Config.Ports}
	if diff := cmp.Diff(want, Record{Pod: have.Pod, PodUID: have.PodUID, Labels: have.Labels, Ports: have.Ports}, sameAddr); diff != "" {
		t.Error(diff)
	}
}

// Records are read by daemons and plugins of other versions, in both directions.
func TestRecordText(t *testing.T) {
	base := Record{Network: "net", ContainerID: "a", IfName: "eth0", Netns: "/ns/a", Bridge: "cni0", HostLink: "veth0"}
	full := base
	full.Labels = map[string]string{"app": "web"}
	full.Ports = []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}, {Name: "dns", ContainerPort: 53, Protocol: netconf.UDP}}
	tests := []struct {
		name, text string
		record     Record
	}{
		{"as before there were labels and ports", `{"network":"net","containerID":"a","ifName":"eth0","netns":"/ns/a","bridge":"cni0","hostLink":"veth0"}`, base},
		{"labels and ports", `{"network":"net","containerID":"a","ifName":"eth0","netns":"/ns/a","labels":{"app":"web"},` +
			`"ports":[{"name":"http","containerPort":8080,"protocol":"tcp"},{"name":"dns","containerPort":53,"protocol":"udp"}],"bridge":"cni0","hostLink":"veth0"}`, full},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			text, err := json.Marshal(test.record)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.text, string(text)); diff != "" {
				t.Errorf("written:\n%s", diff)
			}
			var have Record
			if err := json.Unmarshal([]byte(test.text), &have); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.record, have, sameAddr); diff != "" {
				t.Errorf("read:\n%s", diff)
			}
		})
	}
}
