package nft

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

func probeTable(hookType string) kernel.Table {
	return kernel.Table{Family: kernel.FamilyInet, Name: "twill-probe", Chains: []kernel.Chain{{
		Name: "probe", Hook: &kernel.Hook{Type: hookType, Hook: "postrouting", Priority: 100}, Rules: []kernel.Rule{{Exprs: []kernel.Expr{kernel.Masquerade{}}}},
	}}}
}

func TestProbe(t *testing.T) {
	h, log := open(t)
	if err := h.Probe(probeTable("nat")); err != nil {
		t.Error(err)
	}
	if err := h.Probe(probeTable("nosuchtype")); !errors.Is(err, kernel.ErrUnsupported) || !strings.Contains(err.Error(), "chain probe") {
		t.Errorf("an unknown type of chain: %v, want an unsupported one", err)
	}
	for _, all := range []kernel.Table{everything(), judging()} {
		all.Name = "twill-probe"
		if err := h.Probe(all); err != nil {
			t.Errorf("all that there is a word for: %v", err)
		}
	}
	if rules := nft(t, "list", "ruleset"); rules != "" || log.Len() > 0 {
		t.Errorf("something was made:\n%s%s", rules, log)
	}
	if err := h.SyncTables(t.Context(), []kernel.Table{probeTable("nat")}, nil); err != nil {
		t.Errorf("after the probes: %v", err)
	}
}

// What kernels without a part of nftables answer.
func TestProbed(t *testing.T) {
	steps := []step{{what: "add table"}, {what: "add chain x"}}
	for _, tt := range []struct {
		err         error
		unsupported bool
		want        string
	}{
		{nil, false, ""},
		{&nfnl.Error{Index: -1, Errno: unix.EOPNOTSUPP}, true, "use nftables"}, // CONFIG_NF_TABLES
		{&nfnl.Error{Index: 0, Errno: unix.EOPNOTSUPP}, true, "add table"},     // CONFIG_NF_TABLES_INET
		{&nfnl.Error{Index: 1, Errno: unix.ENOENT}, true, "add chain x"},       // CONFIG_NFT_NAT
		{&nfnl.Error{Index: -1, Errno: unix.EPERM}, false, "use nftables"},
		{&nfnl.Error{Index: 1, Errno: unix.EINVAL}, false, "add chain x"},
		{fmt.Errorf("send: %w", unix.ENOMEM), false, "use nftables: send"},
	} {
		got := probed(tt.err, steps)
		if errors.Is(got, kernel.ErrUnsupported) != tt.unsupported || !errors.Is(got, tt.err) || got != nil && !strings.HasPrefix(got.Error(), tt.want) {
			t.Errorf("%v becomes %v", tt.err, got)
		}
	}
}
