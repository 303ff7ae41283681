package matrix

import (
	"bytes"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the tables to testdata")

// probe makes a probe that got all its replies, or none when reason is set.
func probe(kind Kind, from, to, addr, reason string) Probe {
	p := Probe{Kind: kind, From: from, To: to, Address: netip.MustParseAddr(addr), Sent: 3, Received: 3, MinMS: 0.051, AvgMS: 0.0849}
	if reason != "" {
		p.Sent, p.Received, p.Error, p.MinMS, p.AvgMS = 1, 0, reason, 0, 0
	}
	return p
}

// full is a report in which every pod reaches every other; reason is that of the last pod's silence, if not empty.
func full(pods int, v6 bool, reason string) *Report {
	r := &Report{Lab: "demo"}
	name := func(i int) string { return fmt.Sprintf("node%d-pod1", i) }
	for from := 1; from <= pods; from++ {
		for to := 1; to <= pods; to++ {
			why := ""
			if to == pods {
				why = reason
			}
			if from != to {
				r.Probes = append(r.Probes, probe(PodToPod, name(from), name(to), fmt.Sprintf("10.244.%d.2", to), why))
			}
			if from != to && v6 {
				r.Probes = append(r.Probes, probe(PodToPod, name(from), name(to), fmt.Sprintf("fd00:244:0:%d::2", to), why))
			}
		}
		r.Probes = append(r.Probes, probe(NodeToPod, fmt.Sprintf("node%d", from), name(1), "10.244.1.2", ""))
		r.Probes = append(r.Probes, probe(PodToGateway, name(from), fmt.Sprintf("node%d", from), fmt.Sprintf("10.244.%d.1", from), ""))
	}
	for _, p := range r.Probes {
		r.Total++
		if !p.OK() {
			r.Failed++
		}
	}
	return r
}

func TestTables(t *testing.T) {
	tests := []struct {
		name    string
		report  *Report
		colours bool
	}{
		{"well", full(3, false, ""), false},
		{"dual-stack", full(2, true, ""), false},
		{"silent-pod", full(3, false, "no reply"), false},
		{"colours", full(2, false, "no reply"), true},
		{"many", full(12, false, "no reply"), false},
		{"empty", &Report{Lab: "demo"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got bytes.Buffer
			if err := tt.report.Write(&got, tt.colours); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", tt.name+".txt")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOK(t *testing.T) {
	tests := []struct {
		name           string
		sent, received int
		want           bool
	}{
		{"all", 3, 3, true},
		{"some", 3, 2, false},
		{"none", 1, 0, false},
		{"not asked", 0, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (Probe{Sent: tt.sent, Received: tt.received}).OK(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
