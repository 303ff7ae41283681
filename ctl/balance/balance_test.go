package balance

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWrite(t *testing.T) {
	r := &Report{Service: "default/web", Pods: []string{"node1-pod1", "node2-pod1"}, Rows: []Row{
		{From: "node1-pod1", To: netip.MustParseAddrPort("10.96.0.7:80"), Answers: map[string]int{"node1-pod1": 31, "node2-pod1": 29}},
		{From: "outside", To: netip.MustParseAddrPort("[2001:db8::1]:30080"), Answers: map[string]int{"node1-pod1": 3}, Error: "connection refused"},
	}}
	var b strings.Builder
	if err := r.Write(&b); err != nil {
		t.Fatal(err)
	}
	want := `Service default/web: connections of each client, by the pod that answered
        from                   to  node1-pod1  node2-pod1
  node1-pod1         10.96.0.7:80          31          29
     outside  [2001:db8::1]:30080           3           -
outside to [2001:db8::1]:30080: connection refused
not every pod answered every client
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestOK(t *testing.T) {
	row := func(err string, answers ...string) Row {
		r := Row{Answers: map[string]int{}, Error: err}
		for _, a := range answers {
			r.Answers[a]++
		}
		return r
	}
	tests := []struct {
		name string
		rows []Row
		want bool
	}{
		{"nobody asked", nil, false},
		{"all answered all", []Row{row("", "a", "b", "a"), row("", "b", "a")}, true},
		{"one never answered", []Row{row("", "a", "b"), row("", "b")}, false},
		{"an error", []Row{row("refused", "a", "b")}, false},
		{"a stranger answered", []Row{row("", "a", "b", "c")}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if have := (&Report{Pods: []string{"a", "b"}, Rows: tt.rows}).OK(); have != tt.want {
				t.Errorf("have %t", have)
			}
		})
	}
}
