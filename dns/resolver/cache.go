//go:build linux

package resolver

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Limits of what is remembered.
const (
	maxEntries   = 10000
	maxEntrySize = 8 << 10 // bytes
	maxPositive  = time.Hour
	maxNegative  = 5 * time.Minute
	failureTTL   = time.Second // RFC 9520, 3.2
)

// lookup is a question to others.
type lookup struct {
	name      string // lower-case
	qtype     uint16
	dnssec    bool // the DO bit: signatures are wanted
	unchecked bool // the CD bit
}

// cache remembers answers of upstreams; of too many, those asked for longest ago go.
type cache struct {
	most int

	mu      sync.Mutex
	entries map[lookup]*list.Element
	order   *list.List // of *entry, the latest first
}

// entry is never changed after it was made.
type entry struct {
	key             lookup
	msg             *dns.Msg
	stored, expires time.Time
}

func newCache(most int) *cache {
	return &cache{most: most, entries: map[lookup]*list.Element{}, order: list.New()}
}

// get returns an answer that still holds.
func (c *cache) get(key lookup, now time.Time) (*entry, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.entries[key]
	if !ok {
		return nil, false
	}
	e := at.Value.(*entry)
	if !now.Before(e.expires) {
		c.drop(at)
		return nil, false
	}
	c.order.MoveToFront(at)
	return e, true
}

func (c *cache) drop(at *list.Element) {
	delete(c.entries, at.Value.(*entry).key)
	c.order.Remove(at)
}

// put remembers an answer for as long as it may be, and returns it as an entry.
func (c *cache) put(key lookup, msg *dns.Msg, now time.Time) *entry {
	ttl := ttlOf(msg)
	e := &entry{key: key, msg: msg, stored: now, expires: now.Add(ttl)}
	if ttl <= 0 || msg.Len() > maxEntrySize {
		return e
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if at, ok := c.entries[key]; ok {
		c.drop(at)
	}
	c.entries[key] = c.order.PushFront(e)
	for c.order.Len() > c.most {
		c.drop(c.order.Back())
	}
	return e
}

func (c *cache) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}

// ttlOf returns for how long an answer may be remembered; 0: not at all.
func ttlOf(msg *dns.Msg) time.Duration {
	switch {
	case msg.Truncated || len(msg.Question) != 1:
		return 0
	case msg.Rcode == dns.RcodeServerFailure:
		return failureTTL
	case msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError:
		return 0
	}
	ttl := maxPositive
	positive := false
	for _, rr := range msg.Answer {
		ttl = min(ttl, seconds(rr.Header().Ttl))
		positive = positive || rr.Header().Rrtype == msg.Question[0].Qtype
	}
	if positive && msg.Rcode == dns.RcodeSuccess {
		return ttl
	}
	// That there is nothing is remembered for as long as the zone's SOA says, and not without (RFC 2308, 5).
	for _, rr := range msg.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(ttl, maxNegative, seconds(soa.Hdr.Ttl), seconds(soa.Minttl))
		}
	}
	return 0
}

// seconds reads a TTL; one with its highest bit set is 0 (RFC 2181, 8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

// answer returns a copy for somebody who asked for that name, with what is left of the records' time.
func (e *entry) answer(name string, now time.Time) *dns.Msg {
	age := uint32(max(0, now.Sub(e.stored)/time.Second))
	out := &dns.Msg{MsgHdr: e.msg.MsgHdr}
	for _, section := range []struct{ to, from *[]dns.RR }{{&out.Answer, &e.msg.Answer}, {&out.Ns, &e.msg.Ns}} {
		for _, rr := range *section.from {
			if rr.Header().Rrtype == dns.TypeOPT {
				continue
			}
			rr = dns.Copy(rr)
			h := rr.Header()
			h.Ttl -= min(h.Ttl, age)
			if strings.EqualFold(h.Name, name) {
				h.Name = name
			}
			*section.to = append(*section.to, rr)
		}
	}
	return out
}
