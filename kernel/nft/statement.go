package nft

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
)

// Operations of a dynset expression and codes of a reject expression (include/uapi/linux/netfilter/nf_tables.h).
const (
	dynsetUpdate = 1 // NFT_DYNSET_OP_UPDATE
	dynsetDelete = 2 // NFT_DYNSET_OP_DELETE

	rejectUnreachable  = 0 // NFT_REJECT_ICMP_UNREACH
	rejectReset        = 1 // NFT_REJECT_TCP_RST
	rejectICMPX        = 2 // NFT_REJECT_ICMPX_UNREACH: ICMP or ICMPv6, by the packet
	icmpPortUnreach    = 3 // ICMP_PORT_UNREACH
	icmpv6PortUnreach  = 4 // ICMPV6_PORT_UNREACH
	icmpxPortUnreach   = 1 // NFT_REJECT_ICMPX_PORT_UNREACH
	timeoutGranularity = 20 * time.Millisecond
)

// setPriority sets skb->priority to what a map holds, to an operand or to 0.
func (e *ruleEncoder) setPriority(p kernel.SetPriority) error {
	switch {
	case p.Map != "":
		if err := e.lookup(p.Fields, &expr.Lookup{SetName: p.Map, IsDestRegSet: true, DestRegister: unix.NFT_REG_1}); err != nil {
			return err
		}
	case len(p.Fields) == 0:
		e.add(&expr.Immediate{Register: unix.NFT_REG_1, Data: []byte(nativeUint32(0))})
	default:
		if err := e.narrowTo(p.Fields); err != nil {
			return err
		}
		if word, err := e.concat(p.Fields, 0); err != nil || word != 1 {
			return errors.Join(err, errOneWord)
		}
	}
	e.add(&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: unix.NFT_REG_1})
	return nil
}

var errOneWord = errors.New("a priority is set to one value of 4 bytes")

// change is an Update or a Delete.
type change struct {
	operation  uint32
	set        string
	key, value []kernel.Operand
	timeout    time.Duration
}

// changeSet loads key and value, one behind the other, and changes the set.
func (e *ruleEncoder) changeSet(c change) error {
	if c.timeout%timeoutGranularity != 0 || c.timeout < 0 {
		// The kernel lists a timeout as it keeps it, in ticks: only what ticks of 1, 3.33, 4 and 10 ms can express comes back as it was sent.
		return fmt.Errorf("timeout %v is no multiple of %v", c.timeout, timeoutGranularity)
	}
	if err := errors.Join(e.narrowTo(c.key), e.narrowTo(c.value)); err != nil {
		return err
	}
	word, err := e.concat(c.key, 0)
	if err != nil {
		return err
	}
	dynset := &expr.Dynset{SrcRegKey: register(0), SetName: c.set, Operation: c.operation, Timeout: c.timeout}
	if len(c.value) > 0 {
		dynset.SrcRegData = register(word)
		if _, err := e.concat(c.value, word); err != nil {
			return err
		}
	}
	e.add(dynset)
	return nil
}

// reject is what nft writes for `reject` in each family.
func (e *ruleEncoder) reject(r kernel.Reject) {
	switch {
	case r.Reset:
		e.add(&expr.Reject{Type: rejectReset})
	case e.family == unix.NFPROTO_IPV4:
		e.add(&expr.Reject{Type: rejectUnreachable, Code: icmpPortUnreach})
	case e.family == unix.NFPROTO_IPV6:
		e.add(&expr.Reject{Type: rejectUnreachable, Code: icmpv6PortUnreach})
	default:
		e.add(&expr.Reject{Type: rejectICMPX, Code: icmpxPortUnreach})
	}
}

// limit is `limit rate 100/second burst 200 packets`.
func (e *ruleEncoder) limit(l kernel.Limit) error {
	if l.Rate == 0 || l.Burst == 0 {
		return errors.New("a limit has a rate and a burst: of a burst of 0 the kernel makes 5 packets")
	}
	e.add(&expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(l.Rate), Unit: expr.LimitTimeSecond, Burst: l.Burst})
	return nil
}

// maxLogPrefix is the kernel's NF_LOG_PREFIXLEN less the NUL.
const maxLogPrefix = 127

// log is `log prefix "refused" group 84 snaplen 128`. Absent means all for the length, and nothing for the prefix.
func (e *ruleEncoder) log(l kernel.Log) error {
	if len(l.Prefix) > maxLogPrefix || strings.Contains(l.Prefix, "\x00") {
		return fmt.Errorf("want a log prefix of at most %d bytes without NUL, have %q", maxLogPrefix, l.Prefix)
	}
	log := &expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: l.Group}
	if l.Prefix != "" {
		log.Key |= 1 << unix.NFTA_LOG_PREFIX
		log.Data = []byte(l.Prefix)
	}
	if l.Length != 0 {
		log.Key |= 1 << unix.NFTA_LOG_SNAPLEN
		log.Snaplen = l.Length
	}
	e.add(log)
	return nil
}
