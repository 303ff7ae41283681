package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/outage"
	"github.com/twill-cni/twill/ctl/ping"
)

func TestSwitchReport(t *testing.T) {
	path := func(from, to string, sent, lost int) outage.Outage {
		o := outage.Outage{Path: outage.Path{From: from, To: to, Address: netip.MustParseAddr("10.244.1.2")}, Sent: sent, Lost: lost}
		if lost > 0 {
			o.Gap, o.Err = time.Duration(lost+1)*20*time.Millisecond, ping.ErrNoReply
		}
		return o
	}
	report := &switchReport{Lab: "x", Steps: []step{}, Paths: []pathGap{}}
	done := lab.Switched{Node: &lab.Node{Name: "node1"}, Routing: lab.Routing{Backend: lab.BGP, Overlay: lab.OverlayCrossSubnet}, Done: 1, Total: 2}
	report.add(done, 1500*time.Millisecond, []outage.Outage{path("a", "b", 50, 2), path("b", "a", 50, 10)})
	if report.broken() {
		t.Error("a path that worked at times counts as broken")
	}
	done.Node, done.Done = &lab.Node{Name: "node2"}, 2
	report.add(done, time.Second, []outage.Outage{path("a", "b", 50, 4), path("b", "a", 50, 0)})
	const routing = "bgp (overlay cross-subnet)"
	want := &switchReport{Lab: "x",
		Steps: []step{
			{Node: "node1", Routing: routing, Done: 1, Total: 2, Seconds: 1.5, Sent: 100, Lost: 12, GapMS: 220, Worst: "b -> a (10.244.1.2)"},
			{Node: "node2", Routing: routing, Done: 2, Total: 2, Seconds: 1, Sent: 100, Lost: 4, GapMS: 100, Worst: "a -> b (10.244.1.2)"},
		},
		Paths: []pathGap{
			{From: "a", To: "b", Address: "10.244.1.2", Sent: 100, Lost: 6, GapMS: 100, Error: "no reply"},
			{From: "b", To: "a", Address: "10.244.1.2", Sent: 100, Lost: 10, GapMS: 220, Error: "no reply"},
		}}
	if diff := cmp.Diff(want, report, cmp.AllowUnexported(switchReport{}), cmpopts.IgnoreFields(switchReport{}, "last")); diff != "" {
		t.Error(diff)
	}
	var out bytes.Buffer
	printStep(&out, report.Steps[0])
	if err := printGaps(&out, report); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1/2  node1 now has bgp (overlay cross-subnet), ready after 1.5 s: lost 12 of 100, longest gap 220 ms on b -> a (10.244.1.2)\n",
		"longest gap of all: 220 ms\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("printed is %q, want %q", out.String(), want)
		}
	}
	report.add(done, time.Second, []outage.Outage{path("a", "b", 50, 50), path("b", "a", 50, 0)})
	if !report.broken() {
		t.Error("a path that lost everything is not broken")
	}
}
