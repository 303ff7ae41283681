package proxy

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Verdicts other than the names of endpoints.
const (
	refused     = "refused"     // TCP reset or ICMP port unreachable, at once
	late        = "late"        // the same, but only when TCP tried a second time
	dropped     = "dropped"     // nothing came back
	unreachable = "unreachable" // another ICMP error, or no route
)

const (
	silence  = 300 * time.Millisecond // after which a packet counts as dropped
	hesitant = 3 * time.Second        // for one that should be answered: a SYN that was lost is sent again after one second
	second   = 950 * time.Millisecond // nearly
)

// probe is a question to the network: who answers, if a client sends there? The answer, want, is a set of words in order: names of endpoints, with ~
// when the endpoint sees another address than the client's, or a verdict.
type probe struct {
	from string // a machine
	// to is HOW ADDRESS:PORT, where HOW is tcp, udp, sctp, http (the status, the weight and the body), status, sticky or forgets (see affinity).
	to   string
	want string
}

func (p probe) String() string { return p.from + " to " + p.to }

// answer is the words that came back, in order.
type answer map[string]bool

func (a answer) String() string { return strings.Join(slices.Sorted(maps.Keys(a)), " ") }

// judge asks as often as it takes: until all came that are wanted, and often enough for something to come that is not.
func (m *machine) judge(p probe) string {
	protocol, to, _ := strings.Cut(p.to, " ")
	switch protocol {
	case "http":
		return m.get(to)
	case "status":
		code, _, _ := strings.Cut(m.get(to), " ")
		return code
	case "sticky", "forgets":
		return m.affinity(protocol, to, p.want)
	}
	want := words(p.want)
	least, patience := 4+2*len(want), hesitant
	if want[dropped] {
		least, patience = 2, silence
	}
	seen := answer{}
	const most = 80
	for i := range most {
		word := m.ask(protocol, to, patience)
		seen[word] = true
		if word == late {
			return late
		}
		if !want[word] || i+1 >= least && maps.Equal(seen, want) {
			break
		}
	}
	return seen.String()
}

func words(text string) answer {
	a := answer{}
	for word := range strings.FieldsSeq(text) {
		a[word] = true
	}
	return a
}

// ask sends one packet, or opens one connection, from a new port. It must run in the machine's namespace.
func (m *machine) ask(protocol, to string, patience time.Duration) string {
	begin := time.Now()
	word, _ := m.question(protocol, to, patience)
	m.asked.Add(1)
	if time.Since(begin) > second {
		m.waited.Add(1)
		if word == refused {
			return late
		}
	}
	return word
}

// question is ask, and says whether TCP sent something again to get its answer.
func (m *machine) question(protocol, to string, patience time.Duration) (word string, again bool) {
	if protocol == "sctp" {
		at, err := netip.ParseAddrPort(to)
		if err != nil {
			return verdict(err), false
		}
		return associate(at, patience), false
	}
	conn, err := (&net.Dialer{Timeout: patience}).Dial(protocol, to)
	if err != nil {
		return verdict(err), false
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // thousands of connections leave nothing behind
	}
	name, from, err := greeted(conn, patience)
	if err != nil {
		return verdict(err), false
	}
	if name != world && from != addrOf(conn.LocalAddr()) {
		name += "~"
	}
	return name, sentAgain(conn) > 0
}

// sentAgain is how many segments of a TCP connection the kernel had to send again, its SYN among them; 0 of other connections.
func sentAgain(conn net.Conn) (segments uint32) {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // of a closed one: it has failed
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			segments = info.Total_retrans
		}
	})
	return segments
}

// greeted exchanges the first words with whoever is at the other end.
func greeted(conn net.Conn, patience time.Duration) (name string, from netip.Addr, err error) {
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", from, err
	}
	if _, ok := conn.(*net.UDPConn); ok {
		// The node's own datagram that is rejected fails with EPERM, before the ICMP message that says why can be read.
		if _, err := conn.Write([]byte("who?")); err != nil && !errors.Is(err, syscall.EPERM) {
			return "", from, err
		}
	}
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err != nil {
		return "", from, err
	}
	name, text, _ := strings.Cut(strings.TrimSpace(string(buffer[:n])), " ")
	from, err = netip.ParseAddr(text)
	return name, from, err
}

func addrOf(a net.Addr) netip.Addr {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

func verdict(err error) string {
	timeout, ok := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EACCES):
		return unreachable
	case ok && timeout.Timeout():
		return dropped
	}
	return "error: " + err.Error()
}

// get returns what a health check says.
func (m *machine) get(url string) string {
	client := &http.Client{Timeout: hesitant, Transport: &http.Transport{DisableKeepAlives: true, DialContext: m.ns.Dial}}
	response, err := client.Get("http://" + url)
	if err != nil {
		return verdict(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return verdict(err)
	}
	h := response.Header
	return fmt.Sprintf("%d %s weight=%s %s", response.StatusCode, h.Get("Content-Type"), h.Get("X-Load-Balancing-Endpoint-Weight"),
		strings.Join(strings.Fields(string(body)), ""))
}

// What affinity says of a client that paused for longer than a second, the Service's timeout.
const (
	again   = "again"   // it got its endpoint again, three times
	another = "another" // it got another one
)

// affinity checks that all connections of a client go to one of the endpoints that are wanted ("sticky"), or tells where they go after pauses
// ("forgets").
func (m *machine) affinity(kind, to, want string) string {
	seen := answer{}
	const few = 8
	for range few {
		seen[m.ask("tcp", to, hesitant)] = true
	}
	if wanted := words(want); kind == "sticky" && len(seen) == 1 && maps.Equal(wanted, union(wanted, seen)) {
		return want
	}
	if kind == "sticky" || len(seen) > 1 {
		return seen.String()
	}
	rounds := 3
	if want == another {
		rounds = 12
	}
	for range rounds {
		time.Sleep(1300 * time.Millisecond)
		if seen[m.ask("tcp", to, hesitant)] = true; len(seen) > 1 {
			return another
		}
	}
	return again
}

func union(a, b answer) answer {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}
