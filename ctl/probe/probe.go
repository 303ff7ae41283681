package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/ping"
	"github.com/twill-cni/twill/store"
)

// Outcome is what became of a question.
type Outcome string

// The outcomes.
const (
	Reached Outcome = "reached" // an answer came, be it that nobody listens
	Silent  Outcome = "silent"  // none came
	Failed  Outcome = "failed"  // the kernel, or a router, said that it cannot go there, or it could not be asked
)

// Answer is an outcome with its particulars.
type Answer struct {
	Outcome Outcome
	Detail  string
}

// The protocols besides those of store that can be asked: IANA's numbers of ICMP.
const (
	ICMP   store.Protocol = 1
	ICMPv6 store.Protocol = 58
)

// tries is how many datagrams are sent: the first may be lost while a neighbour is looked for, and errors of ICMP are limited in number.
const tries = 3

// Ask asks a question from inside a place and waits for as long as patience for an answer.
func Ask(ctx context.Context, from Place, protocol store.Protocol, to netip.AddrPort, patience time.Duration) Answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	switch protocol {
	case store.TCP:
		conn, err := from.Dial(ctx, "tcp", to.String())
		if err == nil {
			err = conn.Close()
		}
		return answerOf(err, "the connection was accepted", patience)
	case store.UDP:
		_, err := datagram(ctx, from, to)
		return answerOf(err, "an answer came", patience)
	case ICMP, ICMPv6:
		return answerOf(echo(ctx, from, to.Addr(), 8), "an echo reply came", patience)
	}
	return Answer{Failed, fmt.Sprintf("%s cannot be asked: TCP, UDP and ICMP can", protocol)}
}

// datagram sends datagrams until one is answered, and returns the beginning of the answer.
func datagram(ctx context.Context, from Place, to netip.AddrPort) (string, error) {
	conn, err := from.Dial(ctx, "udp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()                                          // an answer is all that is wanted of it
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })() // who is interrupted does not wait for silence
	deadline, _ := ctx.Deadline()
	pause := time.Until(deadline) / tries
	answer := make([]byte, maxName)
	for i := range tries {
		if _, err := conn.Write([]byte("twill\n")); err != nil {
			return "", err
		}
		until := deadline
		if i < tries-1 {
			until = time.Now().Add(pause)
		}
		if err := conn.SetReadDeadline(until); err != nil {
			return "", err
		}
		n, err := conn.Read(answer)
		if err != nil && ctx.Err() != nil {
			return "", ctx.Err()
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return string(answer[:n]), err
		}
	}
	return "", os.ErrDeadlineExceeded
}

func echo(ctx context.Context, from Place, to netip.Addr, payload int) (err error) {
	var conn *ping.Conn
	if err := from.Do(func() (err error) {
		conn, err = ping.Listen(to)
		return err
	}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	_, err = conn.Echo(ctx, to, payload)
	return err
}

func answerOf(err error, good string, patience time.Duration) Answer {
	timeout := net.Error(nil)
	switch {
	case err == nil:
		return Answer{Reached, good}
	case errors.Is(err, unix.ECONNREFUSED):
		return Answer{Reached, "nobody listens there, and said so"}
	case errors.Is(err, ping.ErrNoReply), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return Answer{Silent, fmt.Sprintf("no answer within %v", patience)}
	}
	return Answer{Failed, err.Error()}
}
