package nft

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/nfnl"
)

// Sighting is a chain as anybody may have made it.
type Sighting struct {
	Family, Table, Chain string // the family as nft(8) says it: ip, ip6, inet, bridge, arp, netdev
	Base                 bool   // the kernel hands packets to it
	Hook                 uint32 // of a base chain, NF_INET_*
	Drops                bool   // the policy of a base chain: what no rule decides is dropped
	Rules                int
	Refusing             int // rules of these that drop or reject what meets them
}

var familyNames = map[uint8]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev",
}

// Survey returns all chains of the network namespace, in the kernel's order; those of iptables-nft, too. It changes nothing. What other
// programs change meanwhile may be there in part.
func (h *Handle) Survey(ctx context.Context) ([]Sighting, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	type key struct {
		family       uint8
		table, chain string
	}
	var all []Sighting
	places := map[key]int{}
	err := h.socket.Dump(nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN}, func(answer nfnl.Message) error {
		s, err := sighting(answer)
		if err == nil {
			places[key{answer.Family, s.Table, s.Chain}] = len(all)
			all = append(all, s)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	err = h.socket.Dump(nfnl.Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE}, func(answer nfnl.Message) error {
		attrs, err := nfnl.Parse(answer.Attrs)
		if place, ok := places[key{answer.Family, attrs[unix.NFTA_RULE_TABLE].String(), attrs[unix.NFTA_RULE_CHAIN].String()}]; ok && err == nil {
			all[place].Rules++
			var refuses bool
			if refuses, err = refusing(attrs[unix.NFTA_RULE_EXPRESSIONS].Value); refuses {
				all[place].Refusing++
			}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("count rules: %w", err)
	}
	return all, nil
}

func sighting(answer nfnl.Message) (Sighting, error) {
	attrs, err := nfnl.Parse(answer.Attrs)
	if err != nil {
		return Sighting{}, err
	}
	s := Sighting{Family: familyNames[answer.Family], Table: attrs[unix.NFTA_CHAIN_TABLE].String(), Chain: attrs[unix.NFTA_CHAIN_NAME].String()}
	hook, base := attrs[unix.NFTA_CHAIN_HOOK]
	if !base {
		return s, nil
	}
	h, err := nfnl.Parse(hook.Value)
	s.Base, s.Hook, s.Drops = true, h[unix.NFTA_HOOK_HOOKNUM].Uint32(), attrs[unix.NFTA_CHAIN_POLICY].Uint32() == 0
	// Without the attribute the policy is to accept (nf_tables_fill_chain_info tells it of all base chains but those of netdev).
	if _, told := attrs[unix.NFTA_CHAIN_POLICY]; !told {
		s.Drops = false
	}
	return s, err
}

const dropped = 0 // NF_DROP

// refusing reports whether one of a rule's expressions drops or rejects. Those that ask a map for a verdict are not followed.
func refusing(expressions []byte) (bool, error) {
	for e, err := range nfnl.Each(expressions) {
		if err != nil {
			return false, err
		}
		attrs, err := nfnl.Parse(e.Value)
		if err != nil {
			return false, err
		}
		switch attrs[unix.NFTA_EXPR_NAME].String() {
		case "reject":
			return true, nil
		case "immediate":
			immediate, err := nfnl.Parse(attrs[unix.NFTA_EXPR_DATA].Value)
			if err != nil {
				return false, err
			}
			data, err := nfnl.Parse(immediate[unix.NFTA_IMMEDIATE_DATA].Value)
			if err != nil {
				return false, err
			}
			verdict, isVerdict := data[unix.NFTA_DATA_VERDICT]
			if code, _, err := verdictOf(verdict); err != nil || isVerdict && code == dropped {
				return err == nil, err
			}
		}
	}
	return false, nil
}
