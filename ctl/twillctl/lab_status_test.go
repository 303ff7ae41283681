package main

import (
	"bytes"
	"net/netip"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrintStatus(t *testing.T) {
	status := labStatus{Dir: "/d", Etcd: "http://172.30.0.1:2379", Subnets: []string{"172.30.1.254/24", "172.30.2.254/24"},
		Nodes: []nodeStatus{{Name: "node1", Addresses: []netip.Addr{netip.MustParseAddr("172.30.1.1")}, Subnet: 1, Backend: "bgp",
			Daemon: "ready", PID: 7, Pods: 2, Log: "/l"}}}
	tests := []struct {
		name   string
		router *tor
		want   string
	}{
		{"a router that only forwards", nil, "(router) 172.30.1.254/24 1\n(router) 172.30.2.254/24 2\n"},
		{"one that speaks BGP", &tor{AS: 65000, Running: true, Log: "/r"},
			"(router) 172.30.1.254/24 1 bgp AS 65000 running /r\n(router) 172.30.2.254/24 2 bgp AS 65000 running /r\n"},
		{"one that was stopped", &tor{AS: 65000, Log: "/r"},
			"(router) 172.30.1.254/24 1 bgp AS 65000 stopped /r\n(router) 172.30.2.254/24 2 bgp AS 65000 stopped /r\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status.Router = tt.router
			var out bytes.Buffer
			if err := printStatus(&out, status); err != nil {
				t.Fatal(err)
			}
			got := regexp.MustCompile(` +`).ReplaceAllString(out.String(), " ")
			got = regexp.MustCompile(`(?m) $`).ReplaceAllString(got, "")
			want := "NODE ADDRESSES SUBNET BACKEND TWILLD PID PODS LOG\n(etcd) http://172.30.0.1:2379 /d/etcd/log\n" + tt.want +
				"node1 172.30.1.1 1 bgp ready 7 2 /l\n"
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
