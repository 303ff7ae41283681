package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/policy/policytest"
	"github.com/twill-cni/twill/store"
)

// Answers. Anything else is the text of an error.
const (
	open    = "open"
	refused = "refused" // nobody listens: the packet went there and back all the same
	silent  = "silent"
)

// quick is the patience with which everything is asked at first. What should be open and is silent is asked again with more.
const quick = 300 * time.Millisecond

// question is a new connection, or a datagram, from a prober.
type question struct {
	from    *prober
	to      netip.Addr
	service policytest.Service
}

func (q question) String() string { return fmt.Sprintf("%s -> %v %s", q.from.name, q.to, q.service) }

// went reports whether an answer says that packets go there and back.
func went(answer string) bool { return answer == open || answer == refused }

// prober asks from inside a namespace.
type prober struct {
	name  string
	ns    netns.Namespace
	queue chan func()
	port  uint16            // the last source port; each is used once, so that no answer comes from what is tracked
	sctp  map[bool]*sctpEnd // by: is IPv6
}

// newProber makes a prober, which ends with the test.
func newProber(t testing.TB, name string, ns netns.Namespace) *prober {
	t.Helper()
	p := &prober{name: name, ns: ns, queue: make(chan func()), port: firstPort}
	// Echo requests without raw sockets; and no limit to the messages that say that nobody listens.
	must(t, ns.Sysctl("ipv4/ping_group_range", "0 2147483647"))
	for _, key := range []string{"ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"} {
		must(t, ns.Sysctl(key, "0"))
	}
	started := make(chan error)
	go func() {
		err := ns.Do(func() error {
			started <- nil
			for f := range p.queue {
				f()
			}
			return nil
		})
		if err != nil {
			started <- err
		}
	}()
	must(t, <-started)
	t.Cleanup(func() { close(p.queue) })
	p.sctp = map[bool]*sctpEnd{false: newSCTPEnd(t, ns, false), true: newSCTPEnd(t, ns, true)}
	return p
}

const firstPort, lastPort = 20_000, 60_000

func (p *prober) nextPort() uint16 {
	if p.port++; p.port > lastPort {
		p.port = firstPort + 1
	}
	return p.port
}

// ask asks everything at once, each prober on a thread of its own, and returns the answers.
func ask(questions []question, patience time.Duration) []string {
	answers := make([]string, len(questions))
	byProber := map[*prober][]int{}
	for i, q := range questions {
		byProber[q.from] = append(byProber[q.from], i)
	}
	var all sync.WaitGroup
	for p, list := range byProber {
		all.Add(1)
		p.queue <- func() {
			defer all.Done()
			own := make([]question, 0, len(list))
			for _, i := range list {
				own = append(own, questions[i])
			}
			for at, answer := range p.askHere(own, patience) {
				answers[list[at]] = answer
			}
		}
	}
	all.Wait()
	return answers
}

// one asks one question with the patience of a doubt.
func one(q question) string { return ask([]question{q}, time.Second)[0] }

// pending is a question whose answer is being waited for.
type pending struct {
	fd     int
	sctp   *sctpWait
	answer string
}

// askHere must run in the prober's namespace.
func (p *prober) askHere(questions []question, patience time.Duration) []string {
	all := make([]pending, len(questions))
	for i, q := range questions {
		all[i] = p.begin(q)
	}
	const pause = 10 * time.Millisecond // between looks at what no socket tells
	for deadline := time.Now().Add(patience); ; {
		left := time.Until(deadline)
		if !collect(all, questions, min(max(left, 0), pause)) || left <= 0 {
			break
		}
	}
	answers := make([]string, len(questions))
	for i := range all {
		answers[i] = all[i].end()
	}
	return answers
}

// collect waits for answers and takes in what has come. It reports whether there are more to wait for.
func collect(all []pending, questions []question, patience time.Duration) bool {
	var waiting []unix.PollFd
	var of []int
	left := false
	for i := range all {
		w := &all[i]
		if w.sctp != nil && w.sctp.answered.Load() {
			w.answer = open
		}
		if w.answer != "" {
			continue
		}
		left = true
		if w.sctp == nil {
			events := int16(unix.POLLIN)
			if questions[i].service.Protocol == store.TCP {
				events = unix.POLLOUT
			}
			waiting, of = append(waiting, unix.PollFd{Fd: int32(w.fd), Events: events}), append(of, i)
		}
	}
	if !left {
		return false
	}
	if n, err := unix.Poll(waiting, int(patience.Milliseconds())); err != nil || n == 0 {
		return true
	}
	for at, i := range of {
		if waiting[at].Revents != 0 {
			all[i].answer = look(all[i].fd, questions[i].service.Protocol)
		}
	}
	return true
}

// look returns what a socket that is ready has to say.
func look(fd int, protocol store.Protocol) string {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err == nil && protocol != store.TCP {
		_, _, err = unix.Recvfrom(fd, make([]byte, 64), unix.MSG_DONTWAIT)
	}
	switch {
	case err == nil:
		return open
	case errors.Is(err, unix.ECONNREFUSED):
		return refused
	case errors.Is(err, unix.EAGAIN):
		return ""
	}
	return err.Error()
}

func (w *pending) end() string {
	if w.fd > 0 {
		_ = unix.Close(w.fd)
	}
	if w.answer == "" {
		return silent
	}
	return w.answer
}

// begin sends the first packet.
func (p *prober) begin(q question) pending {
	if q.service.Protocol == store.SCTP {
		wait, err := p.sctp[q.to.Is6()].begin(p.nextPort(), netip.AddrPortFrom(q.to, q.service.Port))
		if err != nil {
			return pending{answer: err.Error()}
		}
		return pending{sctp: wait}
	}
	fd, err := p.send(q)
	if err != nil {
		return pending{fd: fd, answer: err.Error()}
	}
	return pending{fd: fd}
}

func (p *prober) send(q question) (int, error) {
	family, kind, protocol := unix.AF_INET, unix.SOCK_DGRAM, 0
	if q.to.Is6() {
		family = unix.AF_INET6
	}
	message := []byte("anybody?")
	switch {
	case q.service == (policytest.Service{}) && q.to.Is6():
		protocol, message = unix.IPPROTO_ICMPV6, echoRequest(128)
	case q.service == (policytest.Service{}):
		protocol, message = unix.IPPROTO_ICMP, echoRequest(8)
	case q.service.Protocol == store.TCP:
		kind, message = unix.SOCK_STREAM, nil
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return 0, fmt.Errorf("socket: %w", err)
	}
	if protocol == 0 {
		if err := p.bind(fd, q.to.Is6()); err != nil {
			return fd, err
		}
	}
	if kind == unix.SOCK_STREAM { // thousands of connections leave nothing behind
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return fd, fmt.Errorf("linger: %w", err)
		}
	}
	if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(q.to, q.service.Port))); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return fd, fmt.Errorf("connect: %w", err)
	}
	if message != nil {
		if _, err := unix.Write(fd, message); err != nil {
			return fd, fmt.Errorf("send: %w", err)
		}
	}
	return fd, nil
}

// bind gives the socket a source port that no socket has had for long.
func (p *prober) bind(fd int, v6 bool) error {
	any := netip.IPv4Unspecified()
	if v6 {
		any = netip.IPv6Unspecified()
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("v6only: %w", err)
		}
	}
	for {
		err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(any, p.nextPort())))
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EADDRINUSE) {
			return fmt.Errorf("bind: %w", err)
		}
	}
}

// echoRequest is one of ICMP or ICMPv6; the kernel fills in the identifier and the checksum.
func echoRequest(kind byte) []byte {
	b := make([]byte, 16)
	b[0] = kind
	binary.BigEndian.PutUint16(b[6:], 1)
	return b
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// expected is a question and whether it should be answered.
type expected struct {
	question
	allowed bool
	why     string // more words for who reads that it was not so
}

// wrong asks all questions at once and returns what was not as it should be. What should be open and is silent is asked again, twice: a packet may be late on a
// machine with much to do. What should not be open and is, is wrong.
func wrong(all []expected) []string {
	var failed []string
	for _, patience := range []time.Duration{quick, time.Second, 3 * time.Second} {
		questions := make([]question, 0, len(all))
		for _, e := range all {
			questions = append(questions, e.question)
		}
		var again []expected
		for i, answer := range ask(questions, patience) {
			e := all[i]
			switch {
			case e.allowed == went(answer) && (e.allowed || answer == silent):
			case e.allowed && patience < 3*time.Second:
				again = append(again, e)
			default:
				failed = append(failed, fmt.Sprintf("%v is %s, want allowed: %t %s", e.question, answer, e.allowed, e.why))
			}
		}
		if all = again; len(all) == 0 {
			break
		}
	}
	return failed
}
