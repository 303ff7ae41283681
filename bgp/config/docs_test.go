package config

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/twill-cni/twill/bgp"
)

// The reference names every key, and its examples can be read.
func TestTheReference(t *testing.T) {
	data, err := os.ReadFile("../../docs/bgp.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(data)
	examples := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(doc, -1)
	if len(examples) == 0 {
		t.Fatal("no example")
	}
	for _, e := range examples {
		c := parse(t, e[1])
		if len(c.Peers) == 0 {
			t.Errorf("no peers in %s", e[1])
		}
	}
	record := regexp.MustCompile(`"bgp": (\{.*\})\}\n`).FindStringSubmatch(doc)
	if record == nil {
		t.Fatal("no record")
	}
	if _, err := ParseNode([]byte(record[1])); err != nil {
		t.Error(err)
	}
	for _, unknown := range []string{
		"x: 1", "timers: {x: 1}", "gracefulRestart: {x: 1}", "bfd: {x: 1}", "nodes: [{x: 1}]", "nodes: [{reflector: {x: 1}}]", "peers: [{x: 1}]",
		"peers: [{export: [{x: 1}]}]", "peers: [{export: [{set: {x: 1}}]}]", "announce: [{x: 1}]", "aggregate: [{x: 1}]", "podSubnets: {x: 1}", "services: {x: 1}",
		"nodes: [{match: {x: 1}}]",
	} {
		_, err := Parse([]byte(unknown))
		_, known, ok := strings.Cut(err.Error(), "known are ")
		if !ok {
			t.Fatalf("%s: %v", unknown, err)
		}
		known, _, _ = strings.Cut(known, "\n")
		for _, key := range strings.Split(known, ", ") {
			if !regexp.MustCompile("[`{ ]" + key + "[`:.]").MatchString(doc) {
				t.Errorf("%s is not in the reference", key)
			}
		}
	}
	if c := Default(); !strings.Contains(doc, "`as` | 64512") || c.AS != 64512 || c.Timers != (bgp.Timers{Hold: 9e9, Keepalive: 3e9, ConnectRetry: 2e9}) {
		t.Error("the defaults in the reference are others")
	}
}
