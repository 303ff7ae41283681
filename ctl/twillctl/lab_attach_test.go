package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/plugins/netconf"
)

func TestParsePorts(t *testing.T) {
	have, err := parsePorts([]string{"http=8080", "dns=53/UDP", "diameter=3868/sctp", "dns=53/TCP"})
	if err != nil {
		t.Fatal(err)
	}
	want := []netconf.PodPort{{Name: "http", ContainerPort: 8080, Protocol: netconf.TCP}, {Name: "dns", ContainerPort: 53, Protocol: netconf.UDP},
		{Name: "diameter", ContainerPort: 3868, Protocol: netconf.SCTP}, {Name: "dns", ContainerPort: 53, Protocol: netconf.TCP}}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{"", "http", "=80", "http=", "http=0", "http=65536", "http=-1", "http=80/", "http=80/ICMP", "http=80/TCP/x", "http=web"} {
		if _, err := parsePorts([]string{text}); err == nil || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), "NAME=NUMBER") {
			t.Errorf("%q: have error %v", text, err)
		}
	}
}
