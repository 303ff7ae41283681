package dnat

import (
	"testing"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

func TestPlansAreTheirNames(t *testing.T) {
	f, v6 := families()[0], families()[1]
	tests := map[string]Plan{
		"refused":                        {Choice: Reject},
		"dropped-guarded-split":          {Choice: Drop, Guarded: true, Split: true},
		"refused-inside":                 {Choice: Reject, Inside: true},
		"random-3":                       {Choice: Random, Slots: 3},
		"random-3-offcluster":            {Choice: Random, Slots: 3, Masquerade: OffCluster},
		"sh-65536-inside-offnode":        {Choice: SourceHash, Slots: 65536, Inside: true, Masquerade: OffNode},
		"random-1-masquerade-sticky-30":  {Choice: Random, Slots: 1, Masquerade: Always, Sticky: 30},
		"rr-2-at-tcp-80-10.96.0.1":       {Choice: RoundRobin, Slots: 2, Counter: f.key("10.96.0.1:80")},
		"rr-2-at-sctp-80-fd00__10_1_0_7": {Choice: RoundRobin, Slots: 2, Counter: service.FrontendKey{Addr: v6.addr("10.1.0.7"), Protocol: store.SCTP, Port: 80}},
		"mh-251-guarded-split-sticky-1":  {Choice: Maglev, Slots: 251, Guarded: true, Split: true, Sticky: 1},
	}
	for name, p := range tests {
		if have := p.String(); have != name {
			t.Errorf("%+v: name %q, want %q", p, have, name)
		}
		if have, err := ParsePlan(name); err != nil || have != p {
			t.Errorf("%s: %+v, %v", name, have, err)
		}
	}
	for _, name := range []string{"", "-", "random", "random-", "random-0", "random-03", "random-70000", "random-3-", "random-3-split-guarded", "refused-3", "rr-2",
		"random-2-at-tcp-80-10.0.0.1", "rr-2-at-tcp-80", "rr-2-at-tcp-99999-10.0.0.1", "rr-2-at-tcp-80-10.0.0.01", "inside", "dispatch", "random-3-sticky-0",
		"refused-sticky-3", "reject", "drop", "random-3-inside-split", "rr-2-at-tcp-80-fe80__1%eth0"} {
		if p, err := ParsePlan(name); err == nil {
			t.Errorf("%q: %+v", name, p)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	for _, name := range []string{"random-3", "rr-2-at-tcp-80-fd00__1", "dropped-guarded-split", "mh-251-inside-offnode-sticky-10800", "rr-1-at-7-1-10.0.0.1"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if p, err := ParsePlan(name); err == nil && p.String() != name {
			t.Errorf("%q is read as %+v, whose name is %q", name, p, p)
		}
	})
}
