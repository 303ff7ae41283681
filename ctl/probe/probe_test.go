package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/store"
)

// inside makes a namespace with a loopback link, in which a TCP server and a UDP server that answers listen on port 7.
func inside(t *testing.T) netns.Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ns, err := netns.Create(fmt.Sprintf("probe-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	var server net.Listener
	var udp, mute net.PacketConn
	err = ns.Do(func() (err error) {
		if err = loopbackUp(); err != nil {
			return err
		}
		if server, err = net.Listen("tcp", "127.0.0.1:7"); err != nil {
			return err
		}
		if udp, err = net.ListenPacket("udp", "127.0.0.1:7"); err != nil {
			return err
		}
		mute, err = net.ListenPacket("udp", "127.0.0.1:8")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _, _ = server.Close(), udp.Close(), mute.Close() })
	go func() {
		buffer := make([]byte, 100)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(buffer[:n], from)
		}
	}()
	return ns
}

func TestAsk(t *testing.T) {
	ns := inside(t)
	short, long := 100*time.Millisecond, 20*time.Second
	tests := []struct {
		name     string
		protocol store.Protocol
		to       string
		patience time.Duration
		want     Answer
	}{
		{"TCP", store.TCP, "127.0.0.1:7", long, Answer{Reached, "the connection was accepted"}},
		{"TCP without a server", store.TCP, "127.0.0.1:9", long, Answer{Reached, "nobody listens there, and said so"}},
		{"UDP", store.UDP, "127.0.0.1:7", long, Answer{Reached, "an answer came"}},
		{"UDP without a server", store.UDP, "127.0.0.1:9", long, Answer{Reached, "nobody listens there, and said so"}},
		{"UDP with a server that says nothing", store.UDP, "127.0.0.1:8", short, Answer{Silent, "no answer within 100ms"}},
		{"ICMP", ICMP, "127.0.0.1:0", long, Answer{Reached, "an echo reply came"}},
		{"ICMPv6", ICMPv6, "[::1]:0", long, Answer{Reached, "an echo reply came"}},
		{"SCTP", store.SCTP, "127.0.0.1:7", short, Answer{Failed, "SCTP cannot be asked: TCP, UDP and ICMP can"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, Ask(t.Context(), ns, tt.protocol, netip.MustParseAddrPort(tt.to), tt.patience)); diff != "" {
				t.Error(diff)
			}
		})
	}
	if a := Ask(t.Context(), ns, store.TCP, netip.MustParseAddrPort("192.0.2.1:80"), short); a.Outcome != Failed {
		t.Errorf("without a route: %v", a)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if a := Ask(gone, ns, store.TCP, netip.MustParseAddrPort("127.0.0.1:7"), long); a.Outcome != Failed {
		t.Errorf("after the end: %v", a)
	}
	if a := Ask(t.Context(), netns.Named("probe-none"), store.TCP, netip.MustParseAddrPort("127.0.0.1:7"), long); a.Outcome != Failed {
		t.Errorf("without a namespace: %v", a)
	}
}
