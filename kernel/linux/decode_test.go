//go:build linux

package linux

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/twill-cni/twill/kernel"
	"golang.org/x/sys/unix"
)

// answers is a conn whose other end is not the kernel but reply, which is called with each request.
func answers(t *testing.T, reply func(request message, e *encoder)) *conn {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := &conn{fd: fds[0], received: make([]byte, receiveSize), replies: 100}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, receiveSize)
		for {
			n, err := unix.Read(fds[1], buf)
			if n <= 0 || err != nil {
				return
			}
			request, _, err := nextMessage(buf[:n])
			if err != nil {
				t.Error(err)
				return
			}
			var e encoder
			reply(request, &e)
			if _, err := unix.Write(fds[1], e.buf); err != nil {
				t.Error(err)
			}
		}
	}()
	t.Cleanup(func() {
		if err := errors.Join(c.close()); err != nil {
			t.Error(err)
		}
		<-ended
		_ = unix.Close(fds[1])
	})
	return c
}

// done ends a dump.
func (e *encoder) done(seq uint32, flags uint16, code int32) {
	e.begin(unix.NLMSG_DONE, flags|unix.NLM_F_MULTI, seq)
	e.u32(uint32(code))
	e.end()
}

func TestDisturbedDump(t *testing.T) {
	for _, tc := range []struct {
		name  string
		bad   int // so many dumps are disturbed
		reply func(seq uint32, e *encoder)
		want  error
	}{
		{"not", 0, nil, nil},
		{"a few times", dumpTries - 1, func(seq uint32, e *encoder) { e.done(seq, unix.NLM_F_DUMP_INTR, 0) }, nil},
		{"always", 1000, func(seq uint32, e *encoder) { e.done(seq, unix.NLM_F_DUMP_INTR, 0) }, kernel.ErrStale},
		{"by a signal, in the end", 1000, func(seq uint32, e *encoder) { e.done(seq, 0, -int32(unix.EINTR)) }, kernel.ErrStale},
		{"refused", 1, func(seq uint32, e *encoder) { e.done(seq, 0, -int32(unix.EPERM)) }, unix.EPERM},
		{"nonsense", 1, func(seq uint32, e *encoder) { e.bytes(1, 2, 3) }, errMalformed},
		{"nonsense inside", 1, func(seq uint32, e *encoder) {
			e.begin(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, seq)
			e.end()
			e.done(seq, 0, 0)
		}, errMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tries := 0
			c := answers(t, func(request message, e *encoder) {
				tries++
				e.begin(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, request.seq-1) // of an earlier dump
				e.end()
				e.begin(unix.RTM_NEWNEIGH, unix.NLM_F_MULTI, request.seq)
				e.ndmsg(unix.AF_INET, 7, unix.NUD_PERMANENT, 0)
				e.attrAddr(unix.NDA_DST, netip.MustParseAddr("10.1.0.0"))
				e.end()
				if tries <= tc.bad {
					tc.reply(request.seq, e)
					return
				}
				e.done(request.seq, 0, 0)
			})
			got, err := dump(t.Context(), c, []int32{99}, func(e *encoder, seq uint32) {
				e.begin(unix.RTM_GETNEIGH, unix.NLM_F_DUMP, seq)
				e.end()
			}, func(m message) (int32, bool, error) {
				n, err := parseNeighborMessage(m.payload)
				return n.index, true, err
			})
			if !errors.Is(err, tc.want) {
				t.Fatalf("have %v, want %v", err, tc.want)
			}
			want := []int32{99, 7} // what was there before, and the entry once however often it was read
			if tc.want != nil {
				want = want[:1]
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEncoderMatchesDecoder(t *testing.T) {
	var e encoder
	e.begin(unix.RTM_NEWROUTE, unix.NLM_F_ACK, 7)
	e.attr(1, []byte("abc"))
	at := e.nest(2)
	e.attrU32(3, 0xdeadbeef)
	e.endNest(at)
	e.attrAddr(4, netip.MustParseAddr("10.1.2.3"))
	e.attrAddr(5, netip.MustParseAddr("fd00::1"))
	e.end()
	m, rest, err := nextMessage(e.buf)
	if err != nil || len(rest) > 0 || m.msgType != unix.RTM_NEWROUTE || m.flags != unix.NLM_F_ACK|unix.NLM_F_REQUEST || m.seq != 7 {
		t.Fatalf("have %+v, %v, %v", m, rest, err)
	}
	var got []any
	for attrs := m.payload; len(attrs) > 0; {
		a, next, err := nextAttr(attrs)
		if err != nil {
			t.Fatal(err)
		}
		switch a.attrType {
		case 1:
			got = append(got, a.text())
		case 2:
			inner, ok := find(a.value, 3)
			v, _ := inner.u32()
			got = append(got, ok, v)
		default:
			addr, _ := a.addr()
			got = append(got, addr.String())
		}
		attrs = next
	}
	if diff := cmp.Diff([]any{"abc", true, uint32(0xdeadbeef), "10.1.2.3", "fd00::1"}, got); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
}

// FuzzParse feeds every parser with any bytes as the payload of a message.
func FuzzParse(f *testing.F) {
	var e encoder
	r := kernel.Route{Dst: netip.MustParsePrefix("10.1.0.0/24"), MTU: 1400, Metric: 5,
		NextHops: []kernel.NextHop{{Gateway: netip.MustParseAddr("192.0.2.1")}, {Gateway: netip.MustParseAddr("fd00::1"), Weight: 3}}}
	if err := e.newRoute(&r, nil, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(e.buf[unix.NLMSG_HDRLEN:], uint16(unix.NLM_F_ACK_TLVS))
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, payload []byte, flags uint16) {
		_, _ = parseLinkMessage(payload)
		_, _ = parseAddressMessage(payload)
		if n, err := parseNeighborMessage(payload); err == nil {
			n.neighbor("a")
			n.fdb("a")
		}
		if r, err := parseRouteMessage(payload); err == nil && r.mine() {
			route, err := r.route(func(int32) string { return "a" }, &hopSlab{})
			if err == nil && !route.Dst.IsValid() {
				t.Errorf("route without a destination: %+v", route)
			}
		}
		for _, msgType := range []uint16{unix.NLMSG_ERROR, unix.NLMSG_DONE} {
			_ = parseReply(message{msgType: msgType, flags: flags, payload: payload})
		}
		for rest := payload; len(rest) > 0; {
			_, next, err := nextMessage(rest)
			if err != nil {
				break
			}
			if len(next) >= len(rest) {
				t.Fatal("no progress")
			}
			rest = next
		}
	})
}
