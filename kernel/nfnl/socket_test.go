package nfnl

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func inNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the runtime ends a locked thread with its goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("unshare network namespace (tests of kernel/nfnl need root): %v", err)
	}
}

func open(t *testing.T) *Socket {
	t.Helper()
	s, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func table(typ uint16, flags uint16, name string) Message {
	m := Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | typ, Flags: flags, Family: unix.NFPROTO_INET}
	m.Attrs.String(unix.NFTA_TABLE_NAME, name)
	return m
}

func newTable(name string) Message {
	return table(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, name)
}

func tables(t *testing.T, s *Socket) []string {
	t.Helper()
	var out []string
	err := s.Dump(Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE}, func(m Message) error {
		attrs, err := Parse(m.Attrs)
		out = append(out, attrs[unix.NFTA_TABLE_NAME].String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func generation(t *testing.T, s *Socket) uint32 {
	t.Helper()
	m, err := s.Get(Message{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN})
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := Parse(m.Attrs)
	if err != nil {
		t.Fatal(err)
	}
	return attrs[unix.NFTA_GEN_ID].Uint32()
}

func TestBatch(t *testing.T) {
	inNamespace(t)
	s := open(t)
	if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, nil); err != nil {
		t.Errorf("empty batch: %v", err)
	}
	if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, []Message{newTable("a"), newTable("b")}); err != nil {
		t.Fatal(err)
	}
	err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, []Message{newTable("c"), newTable("a"), newTable("b"), newTable("d")})
	var refused *Error
	if !errors.As(err, &refused) || refused.Index != 1 || !errors.Is(err, unix.EEXIST) {
		t.Errorf("have %v, want EEXIST of message 1", err)
	}
	err = s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, []Message{newTable("c"), newTable("a")})
	if !errors.As(err, &refused) || refused.Index != 1 {
		t.Errorf("have %v, want an error of the last message", err)
	}
	if got := tables(t, s); len(got) != 2 {
		t.Errorf("tables are %v: the refused batches had an effect", got)
	}
}

func TestBatchOfAnotherGeneration(t *testing.T) {
	inNamespace(t)
	s := open(t)
	before := generation(t, s)
	if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, before, []Message{newTable("a")}); err != nil {
		t.Fatal(err)
	}
	if after := generation(t, s); after != before+1 {
		t.Errorf("generation went from %d to %d", before, after)
	}
	err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, before, []Message{newTable("b")})
	var refused *Error
	if !errors.As(err, &refused) || refused.Index != -1 || !errors.Is(err, unix.ERESTART) {
		t.Errorf("have %v, want ERESTART of the batch", err)
	}
	if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, before+1, []Message{newTable("b")}); err != nil {
		t.Errorf("the refused batch left an answer behind: %v", err)
	}
}

// TestLargeBatch is larger than a socket's default send buffer; when all its messages are refused, their errors are more than
// its receive buffer holds.
func TestLargeBatch(t *testing.T) {
	inNamespace(t)
	s := open(t)
	batch := []Message{newTable("a")}
	for i := range 5000 {
		m := table(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, "a")
		m.Attrs.String(unix.NFTA_CHAIN_NAME, fmt.Sprintf("chain-with-a-name-of-some-length-%d", i))
		batch = append(batch, m)
	}
	if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, batch); err != nil {
		t.Fatal(err)
	}
	err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, batch)
	var refused *Error
	if !errors.As(err, &refused) || refused.Index != 0 || !errors.Is(err, unix.EEXIST) {
		t.Errorf("have %v, want EEXIST of message 0", err)
	}
	if got := tables(t, s); len(got) != 1 {
		t.Errorf("tables are %v", got)
	}
}

func TestGetOfNothing(t *testing.T) {
	inNamespace(t)
	s := open(t)
	if _, err := s.Get(table(unix.NFT_MSG_GETTABLE, 0, "none")); !errors.Is(err, unix.ENOENT) {
		t.Errorf("have %v, want ENOENT", err)
	}
	if got := tables(t, s); len(got) != 0 {
		t.Errorf("tables are %v", got)
	}
}

func TestPortID(t *testing.T) {
	inNamespace(t)
	fresh, used := open(t), open(t)
	tables(t, used)
	one, errOne := fresh.PortID()
	two, errTwo := used.PortID()
	again, errAgain := fresh.PortID()
	if err := errors.Join(errOne, errTwo, errAgain); err != nil {
		t.Fatal(err)
	}
	if one == 0 || two == 0 || one == two || one != again {
		t.Errorf("port ids are %d, %d and %d", one, two, again)
	}
}

// TestListener has two sockets change tables in turn; one of them is not to be heard.
func TestListener(t *testing.T) {
	inNamespace(t)
	own, other := open(t), open(t)
	id, err := own.PortID()
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(unix.NFNLGRP_NFTABLES, 4<<10, id)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	change := func(s *Socket, names ...string) {
		var batch []Message
		for _, name := range names {
			batch = append(batch, newTable(name))
		}
		if err := s.Batch(unix.NFNL_SUBSYS_NFTABLES, 0, batch); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 { // more than there is room for
		change(own, fmt.Sprintf("own%d", i), fmt.Sprintf("more%d", i))
	}
	change(other, "a", "b")
	change(own, "c")
	change(other, "last")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var got []string
	err = l.Run(ctx, func(m Message) {
		attrs, err := Parse(m.Attrs)
		if err != nil {
			t.Error(err)
		}
		name := "generation"
		if m.Type&0xff == unix.NFT_MSG_NEWTABLE {
			name = attrs[unix.NFTA_TABLE_NAME].String()
		}
		if got = append(got, name); len(got) == 5 {
			cancel()
		}
	}, func() { t.Error("notifications were lost") })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Run returned %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b", "generation", "last", "generation"}, got); diff != "" {
		t.Error(diff)
	}
}
