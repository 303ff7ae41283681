package nft

import (
	"fmt"
	"net"
	"os/exec"
	"testing"

	"github.com/twill-cni/twill/kernel"
)

// gate lets only datagrams to 127.0.0.1 out. Two gates of different variants differ in every way that makes rules, chains or
// sets be written anew.
func gate(variant int) kernel.Table {
	name := fmt.Sprintf("allowed%d", variant%2)
	return kernel.Table{Family: kernel.FamilyInet, Name: "twill-gate",
		Sets: []kernel.Set{
			{Name: "same", Key: []kernel.Type{kernel.TypeIPv4Addr}, Size: uint32(10 + variant), Elements: []kernel.Element{elem(addr("127.0.0.1"))}},
			{Name: name, Key: []kernel.Type{kernel.TypeIPv4Addr}, Interval: true, Elements: []kernel.Element{
				elem(prefix(fmt.Sprintf("127.0.0.0/%d", 8+variant%16)))}},
		},
		Chains: []kernel.Chain{
			{Name: "output", Hook: &kernel.Hook{Type: "filter", Hook: "output", Drop: true}, Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.Verdict{Kind: kernel.Jump, Chain: fmt.Sprintf("sub%d", variant%2)}}}}},
			{Name: fmt.Sprintf("sub%d", variant%2), Rules: []kernel.Rule{
				{Exprs: []kernel.Expr{kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPDaddr}, Set: "same"},
					kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPDaddr}, Set: name}, kernel.Verdict{Kind: kernel.Accept}}}}},
		},
	}
}

func setLoUp(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("set lo up: %v: %s", err, out)
	}
}

// loopback returns a socket that sends datagrams to another one of this host.
func loopback(t *testing.T) net.Conn {
	t.Helper()
	receiver, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = receiver.Close() })
	sender, err := net.DialUDP("udp4", nil, receiver.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sender.Close() })
	return sender
}

// flood sends datagrams until stop is called, which returns how many there were, and how many of them the kernel dropped.
func flood(sender net.Conn) (stop func() (sent, dropped int)) {
	end, done := make(chan struct{}), make(chan struct{})
	sent, dropped := 0, 0
	go func() {
		defer close(done)
		for {
			select {
			case <-end:
				return
			default:
				sent++
				if _, err := sender.Write([]byte("x")); err != nil {
					dropped++
				}
			}
		}
	}()
	return func() (int, int) {
		close(end)
		<-done
		return sent, dropped
	}
}

// TestPacketsMeetNoGap sends datagrams through a table that drops by default while it is changed all the time. A datagram that
// is dropped on its way out is an error of the send.
func TestPacketsMeetNoGap(t *testing.T) {
	h, log := open(t)
	setLoUp(t)
	syncTables(t, h, gate(0))
	send := func(to string) error {
		conn, err := net.Dial("udp4", to+":9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("x"))
		return err
	}
	if err := send("127.0.0.2"); err == nil {
		t.Fatal("the gate lets everything out")
	}
	stop := flood(loopback(t))
	const changes = 200
	for i := range changes {
		syncTables(t, h, gate(i+1))
	}
	sent, failed := stop()
	t.Logf("%d datagrams during %d changes", sent, changes)
	if failed > 0 || sent < changes {
		t.Errorf("%d of %d datagrams were dropped", failed, sent)
	}
	wantWrites(t, log, 2*changes+1) // each makes a new interval set first
}

// TestTablesGoUnnoticed sends datagrams while a table comes and goes whose map lets out what its set would hold back, as a service proxy's maps
// translate what its set of addresses would refuse. The kernel empties the map of a table that goes for packets on their way, and not the set.
func TestTablesGoUnnoticed(t *testing.T) {
	h, _ := open(t)
	setLoUp(t)
	local := addr("127.0.0.1")
	table := kernel.Table{Family: kernel.FamilyInet, Name: "twill-gate",
		Sets: []kernel.Set{
			{Name: "accepted", Key: []kernel.Type{kernel.TypeIPv4Addr}, Value: []kernel.Type{kernel.TypeVerdict}, Elements: []kernel.Element{
				{Key: []kernel.Datum{local}, Value: []kernel.Datum{{Verdict: &kernel.Verdict{Kind: kernel.Accept}}}}}},
			{Name: "dropped", Key: []kernel.Type{kernel.TypeIPv4Addr}, Elements: []kernel.Element{elem(local)}},
		},
		Chains: []kernel.Chain{{Name: "output", Hook: &kernel.Hook{Type: "filter", Hook: "output"}, Rules: []kernel.Rule{
			{Exprs: []kernel.Expr{kernel.VerdictMap{Fields: []kernel.Operand{kernel.FieldIPDaddr}, Map: "accepted"}}},
			{Exprs: []kernel.Expr{kernel.Lookup{Fields: []kernel.Operand{kernel.FieldIPDaddr}, Set: "dropped"}, kernel.Verdict{Kind: kernel.Drop}}},
		}}},
	}
	stop := flood(loopback(t))
	const times = 100
	for range times {
		syncTables(t, h, table)
		if err := h.DeleteTables(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sent, failed := stop()
	t.Logf("%d datagrams while the table came and went %d times", sent, times)
	if failed > 0 || sent < times {
		t.Errorf("%d of %d datagrams were dropped", failed, sent)
	}
}
