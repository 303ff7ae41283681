package ping

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// Protocol numbers of ICMP, which its message types need to be told apart.
const (
	protocolV4 = 1
	protocolV6 = 58
)

// ErrNoReply says that nothing came back in time.
var ErrNoReply = errors.New("no reply")

// Conn sends echo requests of one family. Its methods may be called concurrently.
type Conn struct {
	socket net.PacketConn // an *net.IPConn, or without CAP_NET_RAW an *net.UDPConn
	v6     bool
	id     uint16
	closed chan struct{}

	mu      sync.Mutex
	seq     uint16
	waiting map[uint16]*request
}

// request is one echo request on its way.
type request struct {
	dst    netip.Addr
	sent   time.Time
	answer chan answer // of capacity 1: whoever takes the request off Conn.waiting sends
}

type answer struct {
	rtt time.Duration
	err error
}

// Listen opens a socket for the family of addr, which is not sent to, in the calling thread's network namespace: a raw one, or for who may not have that, one for
// echo requests alone. The latter is told nothing but replies: a request that a router refuses is one without a reply.
func Listen(addr netip.Addr) (*Conn, error) {
	socket, id, err := open(addr.Is6())
	if err != nil {
		return nil, fmt.Errorf("open a socket for echo requests: %w", err)
	}
	c := &Conn{socket: socket, v6: addr.Is6(), id: id, closed: make(chan struct{}), waiting: map[uint16]*request{}}
	go c.read()
	return c, nil
}

// Close closes the socket. Requests on their way get no reply.
func (c *Conn) Close() error {
	err := c.socket.Close()
	<-c.closed
	return err
}

// Echo sends one request with size bytes of payload and waits for its reply until ctx ends. The error is ErrNoReply when ctx's deadline
// passed, or says why the request could not be sent or was not delivered.
func (c *Conn) Echo(ctx context.Context, dst netip.Addr, size int) (time.Duration, error) {
	seq, r := c.register(dst)
	defer c.take(seq, r)
	if err := c.send(seq, r, size); err != nil {
		return 0, err
	}
	select {
	case a := <-r.answer:
		return a.rtt, a.err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return 0, ErrNoReply
		}
		return 0, ctx.Err()
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *Conn) register(dst netip.Addr) (uint16, *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.waiting[c.seq] != nil {
		c.seq++
	}
	seq := c.seq
	c.seq++
	r := &request{dst: dst, sent: time.Now(), answer: make(chan answer, 1)}
	c.waiting[seq] = r
	return seq, r
}

// take removes the request from those that wait, and reports whether it was still among them.
func (c *Conn) take(seq uint16, r *request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[seq] != r {
		return false
	}
	delete(c.waiting, seq)
	return true
}

func (c *Conn) send(seq uint16, r *request, size int) error {
	message := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: int(c.id), Seq: int(seq), Data: make([]byte, size)}}
	if c.v6 {
		message.Type = ipv6.ICMPTypeEchoRequest // the kernel adds the checksum
	}
	packet, err := message.Marshal(nil)
	if err != nil {
		return fmt.Errorf("send an echo request to %v: %w", r.dst, err)
	}
	var to net.Addr = &net.IPAddr{IP: r.dst.AsSlice(), Zone: r.dst.Zone()}
	if _, ok := c.socket.(*net.UDPConn); ok {
		to = &net.UDPAddr{IP: r.dst.AsSlice(), Zone: r.dst.Zone()}
	}
	if _, err := c.socket.WriteTo(packet, to); err != nil {
		return fmt.Errorf("send an echo request to %v: %w", r.dst, unwrapOp(err))
	}
	return nil
}

// unwrapOp drops the operation and the addresses that net adds: the caller says them better.
func unwrapOp(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func (c *Conn) read() {
	defer close(c.closed)
	packet := make([]byte, 64*1024)
	for {
		n, from, err := c.socket.ReadFrom(packet)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		now := time.Now()
		if err != nil {
			continue
		}
		c.handle(now, sender(from), packet[:n])
	}
}

// sender returns the address of either kind of socket's peer.
func sender(from net.Addr) netip.Addr {
	var ip net.IP
	switch from := from.(type) {
	case *net.IPAddr:
		ip = from.IP
	case *net.UDPAddr:
		ip = from.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func (c *Conn) handle(now time.Time, from netip.Addr, packet []byte) {
	protocol := protocolV4
	if c.v6 {
		protocol = protocolV6
	}
	message, err := icmp.ParseMessage(protocol, packet)
	if err != nil {
		return
	}
	switch message.Type {
	case ipv4.ICMPTypeEchoReply, ipv6.ICMPTypeEchoReply:
		if echo, ok := message.Body.(*icmp.Echo); ok && echo.ID == int(c.id) {
			c.finish(uint16(echo.Seq), from, func(r *request) answer { return answer{rtt: now.Sub(r.sent)} })
		}
		return
	}
	if dst, id, seq, ok := quoted(message, c.v6); ok && id == c.id {
		c.finish(seq, dst, func(*request) answer {
			return answer{err: fmt.Errorf("%v says: %s", from, explain(message))}
		})
	}
}

// finish answers the request with this number, when it went to dst and still waits.
func (c *Conn) finish(seq uint16, dst netip.Addr, with func(*request) answer) {
	c.mu.Lock()
	r := c.waiting[seq]
	c.mu.Unlock()
	if r != nil && r.dst.WithZone("") == dst && c.take(seq, r) {
		r.answer <- with(r)
	}
}

// quoted returns where the request went that an ICMP error quotes, its identifier and its sequence number (RFC 792; RFC 4443, 2.4).
func quoted(message *icmp.Message, v6 bool) (dst netip.Addr, id, seq uint16, ok bool) {
	var data []byte
	switch body := message.Body.(type) {
	case *icmp.DstUnreach:
		data = body.Data
	case *icmp.TimeExceeded:
		data = body.Data
	case *icmp.PacketTooBig:
		data = body.Data
	default:
		return dst, 0, 0, false
	}
	header, at, size := 0, 16, 4
	if v6 {
		header, at, size = ipv6.HeaderLen, 24, 16
	} else if len(data) > 0 {
		header = int(data[0]&0xf) * 4
	}
	if len(data) < max(header, at+size)+8 {
		return dst, 0, 0, false
	}
	dst, ok = netip.AddrFromSlice(data[at : at+size])
	echo := data[header:]
	return dst, binary.BigEndian.Uint16(echo[4:]), binary.BigEndian.Uint16(echo[6:]), ok
}

// explain puts an ICMP error into words.
func explain(message *icmp.Message) string {
	if body, ok := message.Body.(*icmp.PacketTooBig); ok {
		return fmt.Sprintf("packet too big, MTU %d", body.MTU)
	}
	type kind struct {
		t    icmp.Type
		code int
	}
	words := map[kind]string{ // RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1, RFC 4443 3.1
		{ipv4.ICMPTypeDestinationUnreachable, 0}:  "network unreachable",
		{ipv4.ICMPTypeDestinationUnreachable, 1}:  "host unreachable",
		{ipv4.ICMPTypeDestinationUnreachable, 3}:  "port unreachable",
		{ipv4.ICMPTypeDestinationUnreachable, 4}:  "packet too big",
		{ipv4.ICMPTypeDestinationUnreachable, 9}:  "network prohibited",
		{ipv4.ICMPTypeDestinationUnreachable, 10}: "host prohibited",
		{ipv4.ICMPTypeDestinationUnreachable, 13}: "administratively prohibited",
		{ipv6.ICMPTypeDestinationUnreachable, 0}:  "no route",
		{ipv6.ICMPTypeDestinationUnreachable, 1}:  "administratively prohibited",
		{ipv6.ICMPTypeDestinationUnreachable, 3}:  "address unreachable",
		{ipv6.ICMPTypeDestinationUnreachable, 4}:  "port unreachable",
	}
	if text, ok := words[kind{message.Type, message.Code}]; ok {
		return text
	}
	return fmt.Sprintf("%v, code %d", message.Type, message.Code)
}
