package probe

import (
	"context"
	"net/netip"
	"time"
)

// Bytes of the headers of an echo request.
const (
	headers4 = 20 + 8
	headers6 = 40 + 8
)

// AskLarge sends one echo request that is a packet of size bytes, which the kernel does not divide before it has been told to, and waits for its reply.
func AskLarge(ctx context.Context, from Place, to netip.Addr, size int, patience time.Duration) Answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	payload := size - headers4
	if to.Is6() {
		payload = size - headers6
	}
	return answerOf(echo(ctx, from, to, payload), "an echo reply came", patience)
}
