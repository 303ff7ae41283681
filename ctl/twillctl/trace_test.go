package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/store"
)

func TestParseTarget(t *testing.T) {
	tests := []struct {
		text string
		want traceTarget // no host: it is refused
	}{
		{"api:80", traceTarget{"api", 80, store.TCP}},
		{"shop/api:8081", traceTarget{"shop/api", 8081, store.TCP}},
		{"kube-system/kube-dns:53/udp", traceTarget{"kube-system/kube-dns", 53, store.UDP}},
		{"10.244.1.2:80/TCP", traceTarget{"10.244.1.2", 80, store.TCP}},
		{"[fd00::2]:80/sctp", traceTarget{"fd00::2", 80, store.SCTP}},
		{"fd00::2", traceTarget{}},
		{"shop/api", traceTarget{}},
		{"api:0", traceTarget{}},
		{"api:65536", traceTarget{}},
		{"api:80/icmp", traceTarget{}},
		{"", traceTarget{}},
	}
	for _, tt := range tests {
		got, err := parseTarget(tt.text)
		if (err != nil) != (tt.want == traceTarget{}) {
			t.Errorf("%q: %v", tt.text, err)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(traceTarget{})); err == nil && diff != "" {
			t.Errorf("%q: %s", tt.text, diff)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"a/b:80/udp", "[fd00::2]:80", ":1", "/", "::1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := parseTarget(text); err == nil && got.port == 0 {
			t.Errorf("%q: %+v", text, got)
		}
	})
}
