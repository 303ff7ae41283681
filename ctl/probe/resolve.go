package probe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Resolve looks a name up, in IPv4 or IPv6, at a name server.
func Resolve(ctx context.Context, from Place, server netip.AddrPort, name string, v6 bool, patience time.Duration) ([]netip.Addr, Answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return from.Dial(ctx, network, server.String())
	}}
	family := "ip4"
	if v6 {
		family = "ip6"
	}
	found, err := resolver.LookupNetIP(ctx, family, strings.TrimSuffix(name, ".")+".")
	for i := range found {
		found[i] = found[i].Unmap()
	}
	if d, ok := errors.AsType[*net.DNSError](err); ok && !d.Timeout() {
		return nil, Answer{Failed, "the name server answered: " + d.Err}
	}
	return found, answerOf(err, "the name was found", patience)
}
