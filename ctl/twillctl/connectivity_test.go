package main

import (
	"strings"
	"testing"

	"github.com/twill-cni/twill/ctl/connectivity"
)

func TestParseOutside(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.80": "192.0.2.80:0", "192.0.2.80:443": "192.0.2.80:443", "2001:db8::80": "[2001:db8::80]:0", "[2001:db8::80]": "[2001:db8::80]:0", "[2001:db8::80]:443": "[2001:db8::80]:443",
		"::ffff:192.0.2.80": "192.0.2.80:0", "192.0.2.80:0": "", "192.0.2.80:x": "", "example.com": "", "example.com:80": "", "": "", "fe80::1%eth0": "", "[fe80::1%eth0]:80": "",
	} {
		got, err := parseOutside(text)
		if want == "" && (err == nil || !strings.Contains(err.Error(), "--outside")) || want != "" && (err != nil || got.String() != want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
}

// Where lines cannot be rewritten, the bar is printed once, when it is full.
func TestBar(t *testing.T) {
	var out strings.Builder
	p := &progress{w: &out}
	p.bar(connectivity.Progress{Kind: connectivity.PodToPod, Done: 1, Total: 4})
	if out.String() != "" {
		t.Errorf("%q", out.String())
	}
	p.terminal = true
	p.bar(connectivity.Progress{Kind: connectivity.PodToPod, Done: 1, Total: 4, Failed: 1})
	if got := out.String(); !strings.HasPrefix(got, "\r\x1b[K") || !strings.HasSuffix(got, " s  [##########..............................] 1/4, 1 failed  pod-to-pod") {
		t.Errorf("%q", got)
	}
	out.Reset()
	p.bar(connectivity.Progress{Kind: connectivity.PodToPod, Done: 4, Total: 4})
	if got := out.String(); !strings.HasSuffix(got, "] 4/4\n") || p.open {
		t.Errorf("%q", got)
	}
}
