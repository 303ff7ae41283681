package features

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/policy/gate"
)

// builtWithout is a kernel that lacks some modules.
type builtWithout struct {
	modules []string
	errno   syscall.Errno // of what it lacks; EOPNOTSUPP when 0
	asked   []string
	err     error // of everything
}

func (k *builtWithout) answer(module string) error {
	k.asked = append(k.asked, module)
	if slices.Contains(k.modules, module) {
		if k.errno != 0 {
			return fmt.Errorf("add set: %w", k.errno)
		}
		return fmt.Errorf("%w: %w", kernel.ErrUnsupported, syscall.EOPNOTSUPP)
	}
	return k.err
}

func (k *builtWithout) ProbeLink(kind string) error { return k.answer(kind) }
func (k *builtWithout) ProbeConntrack() error       { return k.answer("nf_conntrack_netlink") }

// ProbeTable looks at the last expression of each chain, which is what the package asks for.
func (k *builtWithout) ProbeTable(t kernel.Table) error {
	for _, c := range t.Chains {
		if err := k.probeChain(t.Family, c); err != nil {
			return err
		}
	}
	return k.answer("nf_tables " + version(t.Family))
}

func version(f kernel.TableFamily) string {
	return map[kernel.TableFamily]string{kernel.FamilyInet: "inet", kernel.FamilyIPv4: "ipv4", kernel.FamilyIPv6: "ipv6"}[f]
}

func (k *builtWithout) probeChain(family kernel.TableFamily, c kernel.Chain) error {
	version, exprs := version(family), c.Rules[0].Exprs
	switch e := exprs[len(exprs)-1].(type) {
	case kernel.Compare:
		switch e.Field {
		case kernel.FieldCTStatus:
			return k.answer("nft_ct")
		case kernel.FieldCTMark:
			return k.answer("ct mark")
		}
		return k.answer("nft_fib_" + version)
	case kernel.DNAT:
		return k.answer("nft_chain_nat")
	case kernel.Masquerade:
		return k.answer("nft_masq")
	case kernel.Reject:
		return k.answer("nft_reject_" + version)
	case kernel.SetPriority:
		return k.answer("nft_numgen")
	case kernel.Limit:
		return k.answer("nft_limit")
	case kernel.Log:
		return k.answer("nfnetlink_log")
	case kernel.Counter:
		return k.answer("nft_counter")
	case kernel.VerdictMap:
		return k.answer("verdict maps")
	case kernel.Lookup:
		if e.Set == ranges {
			return k.answer("ranges")
		}
		if _, ok := e.Fields[0].(kernel.Numgen); ok {
			return k.answer("nft_numgen")
		}
		return k.answer("nft_hash")
	}
	return errors.New("an expression that nobody knows")
}

func TestCheck(t *testing.T) {
	everything := Needs{IPv4: true, IPv6: true, VXLAN: true, Proxy: true, Policy: true}
	tests := []struct {
		name    string
		modules []string
		needs   Needs
		want    []string // a part of each line of the error
	}{
		{"all is there", nil, everything, nil},
		{"no VXLAN", []string{"vxlan"}, everything, []string{"this host's kernel lacks VXLAN devices: run `modprobe vxlan` on the host and have the module loaded at boot " +
			"(a line in /etc/modules-load.d), or take a kernel with CONFIG_VXLAN: the kernel does not support it: operation not supported"}},
		{"no VXLAN, which BGP does not need", []string{"vxlan"}, Needs{IPv4: true, Proxy: true}, nil},
		{"nothing for the proxy, which is off", []string{"nft_numgen", "nft_hash", "nft_reject_ipv4", "nf_conntrack_netlink"}, Needs{IPv4: true, VXLAN: true}, nil},
		{"nothing for IPv6, which is not used", []string{"nf_tables ipv6", "nft_fib_ipv6"}, Needs{IPv4: true, VXLAN: true, Proxy: true}, nil},
		{"no nftables", []string{"nf_tables inet", "nft_ct"}, Needs{IPv4: true}, []string{"nftables (family inet): run `modprobe nf_tables`"}},
		{"no nftables for IPv6", []string{"nf_tables ipv6", "nft_numgen"}, Needs{IPv6: true, Proxy: true}, []string{"lacks nftables (IPv6): take a kernel with CONFIG_NF_TABLES_IPV6: "}},
		{"no links", []string{"bridge", "veth"}, Needs{IPv4: true}, []string{"modprobe bridge", "CONFIG_VETH"}},
		{"no NAT", []string{"nft_chain_nat", "nft_masq"}, Needs{IPv4: true}, []string{"CONFIG_NF_NAT", "modprobe nft_masq"}},
		{"parts of the proxy", []string{"nft_numgen", "nft_hash", "nft_fib_ipv4", "nft_reject_ipv4", "nf_conntrack_netlink"}, Needs{IPv4: true, Proxy: true},
			[]string{"modprobe nft_fib_ipv4", "modprobe nft_reject_ipv4", "modprobe nft_numgen", "modprobe nft_hash", "modprobe nf_conntrack_netlink"}},
		{"parts of policies", []string{"nft_numgen", "nft_limit", "nfnetlink_log", "nf_conntrack_netlink"}, Needs{IPv4: true, Policy: true},
			[]string{"modprobe nft_numgen", "modprobe nft_limit", "modprobe nfnetlink_log", "modprobe nf_conntrack_netlink"}},
		{"more parts of policies", []string{"ct mark", "nft_counter", "ranges", "verdict maps"}, Needs{IPv4: true, Policy: true},
			[]string{"marks of tracked connections: take a kernel with CONFIG_NF_CONNTRACK_MARK: ", "modprobe nft_counter", "take a kernel with CONFIG_NF_TABLES of Linux 5.6 or later", "verdicts"}},
		{"nothing for policies, which are off", []string{"nft_limit", "nfnetlink_log", "ct mark", "nft_counter", "ranges", "verdict maps"}, Needs{IPv4: true, Proxy: true}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Check(&builtWithout{modules: tt.modules}, tt.needs)
			if len(tt.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var lines []string
			if err != nil {
				lines = strings.Split(err.Error(), "\n")
			}
			if len(lines) != len(tt.want) {
				t.Fatalf("have %q, want %d lines", lines, len(tt.want))
			}
			for i, want := range tt.want {
				if !strings.Contains(lines[i], want) {
					t.Errorf("have %q, want %q", lines[i], want)
				}
			}
			if lack := (*kernel.LackError)(nil); !errors.As(err, &lack) || !errors.Is(err, kernel.ErrUnsupported) {
				t.Errorf("%v is no lack", err)
			}
		})
	}
}

// A kernel from before a part of nftables says of it that it is invalid.
func TestCheckOldKernel(t *testing.T) {
	k := &builtWithout{modules: []string{"ranges"}, errno: syscall.EINVAL}
	err := Check(k, Needs{IPv4: true, Policy: true})
	if lack := (*kernel.LackError)(nil); !errors.As(err, &lack) || !strings.Contains(err.Error(), "lacks ranges of ports in sets of nftables") || strings.Contains(err.Error(), "\n") {
		t.Error(err)
	}
}

// All that the table of policies is made of is asked for, but for what every kernel with nftables has.
func TestPolicyTableIsAskedFor(t *testing.T) {
	kinds := func(t kernel.Table) map[string]bool {
		out := map[string]bool{}
		for _, s := range t.Sets {
			out[fmt.Sprintf("set, interval %t, concatenation %t, verdicts %t", s.Interval, s.Interval && len(s.Key) > 1, slices.Contains(s.Value, kernel.TypeVerdict))] = true
		}
		for _, c := range t.Chains {
			for _, r := range c.Rules {
				for _, e := range r.Exprs {
					switch e := e.(type) {
					case kernel.Verdict:
					case kernel.Compare:
						switch e.Field {
						case kernel.FieldCTMark:
							out["a connection's mark"] = true
						case kernel.FieldCTState, kernel.FieldCTStatus:
							out["a connection"] = true
						}
					default:
						out[fmt.Sprintf("%T", e)] = true
					}
				}
			}
		}
		return out
	}
	asked := kinds(together(parts(kernel.FamilyInet, Needs{Policy: true})))
	pods := []netip.Prefix{netip.MustParsePrefix("10.244.1.0/24"), netip.MustParsePrefix("fd00::/64")}
	for kind := range kinds(gate.Closed(gate.Config{NodePods: pods, Bridge: "cni0", CutMark: 1 << 31, LogGroup: 84, LogRate: 1, LogBurst: 1})) {
		if !asked[kind] && kind != "set, interval true, concatenation false, verdicts false" {
			t.Errorf("the table has %s, which no kernel is asked for", kind)
		}
	}
}

// Without the right to ask, nothing is said of features.
func TestCheckWithoutRight(t *testing.T) {
	k := &builtWithout{err: syscall.EPERM}
	err := Check(k, Needs{IPv4: true, VXLAN: true, Proxy: true})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "capability NET_ADMIN") || strings.Contains(err.Error(), "\n") || len(k.asked) != 1 {
		t.Errorf("%v, after questions for %v", err, k.asked)
	}
}
