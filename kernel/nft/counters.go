package nft

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// RuleCount is what the counters of one rule have counted since the rule was written.
type RuleCount struct {
	Chain, Comment string // the rule's
	Packets, Bytes uint64
}

// Counters returns what the rules of the named chains that have a Counter have counted, in the order of the chains and of the rules in them. Only
// these chains are listed, one request each. A chain or table that is not there has no rules. A rule that is written anew
// counts from 0 again: SyncTables does so with all rules of a chain when one of them changes.
func (h *Handle) Counters(ctx context.Context, family kernel.TableFamily, table string, chains ...string) ([]RuleCount, error) {
	var counts []RuleCount
	for _, chain := range chains {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		counted, err := h.counters(tableID{families[family], table}, chain)
		if err != nil {
			return nil, fmt.Errorf("read counters of chain %s of table %s: %w", chain, table, err)
		}
		counts = append(counts, counted...)
	}
	return counts, nil
}

func (h *Handle) counters(id tableID, chain string) ([]RuleCount, error) {
	h.mu.Lock() // for each chain: a change of elements waits for one at most
	defer h.mu.Unlock()
	m := message(unix.NFT_MSG_GETRULE, id)
	m.Attrs.String(unix.NFTA_RULE_CHAIN, chain)
	var counts []RuleCount
	err := undisturbed(func() error {
		counts = nil
		return h.socket.Dump(m, func(answer nfnl.Message) error {
			count, counted, err := decodeRuleCount(answer.Attrs)
			if counted {
				counts = append(counts, count)
			}
			return err
		})
	})
	return counts, err
}

// decodeRuleCount adds up the counters of a rule as it is listed, if it has any.
func decodeRuleCount(b []byte) (count RuleCount, counted bool, err error) {
	attrs, err := nfnl.Parse(b)
	if err != nil {
		return count, false, err
	}
	count.Chain = attrs[unix.NFTA_RULE_CHAIN].String()
	count.Comment = commentOf(string(attrs[unix.NFTA_RULE_USERDATA].Value), udataComment)
	for element, err := range nfnl.Each(attrs[unix.NFTA_RULE_EXPRESSIONS].Value) {
		if err != nil {
			return count, false, err
		}
		e, err := nfnl.Parse(element.Value)
		if err != nil {
			return count, false, err
		}
		if e[unix.NFTA_EXPR_NAME].String() != exprCounter {
			continue
		}
		packets, bytes, err := decodeCounter(element.Value)
		if err != nil {
			return count, false, err
		}
		counted = true
		count.Packets += packets
		count.Bytes += bytes
	}
	return count, counted, nil
}

// undisturbed repeats a listing that the kernel calls inconsistent.
func undisturbed(list func() error) error {
	err := error(kernel.ErrStale)
	for i := 0; i < attempts && errors.Is(err, kernel.ErrStale); i++ {
		err = list()
	}
	return err
}
