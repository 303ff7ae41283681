package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/twill-cni/twill/store"
)

// maxName is how many bytes of what a server says are read.
const maxName = 256

// Server says a name to everybody who connects by TCP or sends a datagram.
type Server struct {
	closers []io.Closer
	running sync.WaitGroup
}

// Serve starts a server at these addresses of a place, of TCP and of UDP, that says the name. The caller closes it.
func Serve(ctx context.Context, at Place, name string, addrs ...netip.AddrPort) (*Server, error) {
	s := &Server{}
	for _, addr := range addrs {
		var stream net.Listener
		var packets net.PacketConn
		err := at.Do(func() (err error) {
			if stream, err = new(net.ListenConfig).Listen(ctx, "tcp", addr.String()); err != nil {
				return err
			}
			s.closers = append(s.closers, stream)
			packets, err = new(net.ListenConfig).ListenPacket(ctx, "udp", addr.String())
			return err
		})
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("serve at %s: %w", addr, err)
		}
		s.closers = append(s.closers, packets)
		s.running.Go(func() { greet(stream, name) })
		s.running.Go(func() { echoName(packets, name) })
	}
	return s, nil
}

// Close ends the server.
func (s *Server) Close() {
	for _, c := range s.closers {
		_ = c.Close() // nothing is lost with it
	}
	s.running.Wait()
}

func greet(listener net.Listener, name string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second)) // a client that does not read holds up no other
		_, _ = io.WriteString(conn, name+"\n")            // a client that is gone needs no answer
		_ = conn.Close()
	}
}

func echoName(conn net.PacketConn, name string) {
	buffer := make([]byte, maxName)
	for {
		_, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo([]byte(name+"\n"), from) // whoever asked may be gone
	}
}

// Who asks the Server at an address for its name, by TCP or UDP. Unlike with Ask, that nobody listens is no answer.
func Who(ctx context.Context, from Place, protocol store.Protocol, to netip.AddrPort, patience time.Duration) (name string, a Answer) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var err error
	switch protocol {
	case store.TCP:
		name, err = greeting(ctx, from, to)
	case store.UDP:
		name, err = datagram(ctx, from, to)
	default:
		return "", Answer{Failed, fmt.Sprintf("%s cannot be asked for a name: TCP and UDP can", protocol)}
	}
	name = strings.TrimSpace(name)
	a = answerOf(err, name+" answered", patience)
	if err != nil && a.Outcome == Reached {
		a = Answer{Failed, a.Detail}
	}
	if err == nil && name == "" {
		a = Answer{Failed, "the connection was closed without a word"}
	}
	return name, a
}

func greeting(ctx context.Context, from Place, to netip.AddrPort) (string, error) {
	conn, err := from.Dial(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close() // its name is all that is wanted of it
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	text, err := io.ReadAll(io.LimitReader(conn, maxName))
	return string(text), err
}
