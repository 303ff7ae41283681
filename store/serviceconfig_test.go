package store

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseServiceConfig(t *testing.T) {
	pods := func(config string) Network {
		n, err := ParseNetwork([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	four, dual := `{"Network":"10.244.0.0/16"}`, `{"Network":"10.244.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:244::/48"}`
	tests := []struct {
		name, pods, doc string // doc: "-" for none
		want            string // or a part of the error
	}{
		{"defaults", four, "-", "[10.96.0.0/16] 30000-32767"},
		{"dual-stack defaults", dual, "-", "[10.96.0.0/16 fd00:96::/112] 30000-32767"},
		{"defaults without a pod network", "", "-", "[10.96.0.0/16 fd00:96::/112] 30000-32767"},
		{"empty", four, "{}", "[10.96.0.0/16] 30000-32767"},
		{"given", dual, `{"serviceNetworks":["fd00:1::/108","172.20.0.0/24"],"nodePorts":"20000-20001"}`, "[fd00:1::/108 172.20.0.0/24] 20000-20001"},
		{"none", four, `{"serviceNetworks":[]}`, "[] 30000-32767"},
		{"one port", four, `{"nodePorts":"7-7"}`, "[10.96.0.0/16] 7-7"},
		{"overlap", `{"Network":"10.0.0.0/8"}`, "-", "service config: serviceNetworks: 10.96.0.0/16 overlaps the pod network 10.0.0.0/8"},
		{"unknown key", four, `{"serviceNetwork":[]}`, `unknown field "serviceNetwork"`},
		{"no object", four, `7`, "want an object"},
		{"two objects", four, `{}{}`, "one JSON object"},
		{"no network", four, `{"serviceNetworks":["10.96.0.0"]}`, `serviceNetworks[0]: "10.96.0.0" is no network`},
		{"host bits", four, `{"serviceNetworks":["10.96.0.1/16"]}`, "should read 10.96.0.0/16"},
		{"too small", four, `{"serviceNetworks":["10.96.0.0/31"]}`, "want a /8 to /30"},
		{"too large", four, `{"serviceNetworks":["fd00::/48"]}`, "a /64 to /126"},
		{"two of a family", four, `{"serviceNetworks":["10.96.0.0/16","10.97.0.0/16"]}`, "second of its family"},
		{"ports reversed", four, `{"nodePorts":"9-8"}`, "nodePorts"},
		{"port 0", four, `{"nodePorts":"0-8"}`, "nodePorts"},
		{"one number", four, `{"nodePorts":"8"}`, "nodePorts"},
		{"too long", four, `{"nodePorts":"` + strings.Repeat("8", MaxServiceConfigSize) + `"}`, "are allowed"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var network Network
			if test.pods != "" {
				network = pods(test.pods)
			}
			var data []byte
			if test.doc != "-" {
				data = []byte(test.doc)
			}
			c, err := ParseServiceConfig(data, network)
			have := fmt.Sprint(c.Networks, " ", c.NodePorts)
			if err != nil {
				have = err.Error()
			}
			if err == nil && have != test.want || !strings.Contains(have, test.want) {
				t.Errorf("have %s, want %s", have, test.want)
			}
		})
	}
}

func FuzzParseServiceConfig(f *testing.F) {
	f.Add([]byte(`{"serviceNetworks":["10.96.0.0/16","fd00:96::/112"],"nodePorts":"30000-32767"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseServiceConfig(data, Network{})
		if err == nil && (c.NodePorts.First == 0 || c.NodePorts.First > c.NodePorts.Last || len(c.Networks) > 2) {
			t.Errorf("have %+v", c)
		}
	})
}
