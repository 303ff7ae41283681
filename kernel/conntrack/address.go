package conntrack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

// FlushAddrs removes the entries in which one of the addresses takes part, whoever opened the connection and whatever it was translated to, and returns
// how many there were. The whole table is listed, which takes about a microsecond for each entry. It works on the network namespace of the calling thread.
func FlushAddrs(ctx context.Context, addrs []netip.Addr) (removed int, err error) {
	var v4, v6 []netip.Addr
	for _, a := range addrs {
		if a = a.Unmap(); a.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	socket, err := nfnl.Open()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, socket.Close()) }()
	for _, f := range []struct {
		family uint8
		addrs  []netip.Addr
	}{{unix.AF_INET, v4}, {unix.AF_INET6, v6}} {
		if len(f.addrs) == 0 {
			continue
		}
		n, err := flushAddrs(ctx, socket, f.family, f.addrs)
		removed += n
		if err != nil {
			return removed, fmt.Errorf("remove conntrack entries of %s: %w", f.addrs, err)
		}
	}
	return removed, nil
}

func flushAddrs(ctx context.Context, socket *nfnl.Socket, family uint8, addrs []netip.Addr) (removed int, err error) {
	var found []nfnl.Message
	err = kernel.ErrStale
	for i := 0; i < attempts && errors.Is(err, kernel.ErrStale); i++ {
		found = found[:0]
		err = socket.Dump(nfnl.Message{Type: msgGet, Family: family}, func(m nfnl.Message) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if of, err := isOf(m, addrs); err != nil || !of {
				return err
			}
			entry, _, _, err := deletion(m)
			found = append(found, entry)
			return err
		})
	}
	if err != nil {
		return 0, fmt.Errorf("list: %w", err)
	}
	var errs []error
	for _, m := range found {
		switch err := socket.Do(m); {
		case err == nil:
			removed++
		case !errors.Is(err, unix.ENOENT): // gone by itself
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}

// isOf reports whether one of the addresses is an end of the entry, in either direction.
func isOf(m nfnl.Message, addrs []netip.Addr) (bool, error) {
	for a, err := range nfnl.Each(m.Attrs) {
		if err != nil {
			return false, err
		}
		if a.Type != ctaTupleOrig && a.Type != ctaTupleReply {
			continue
		}
		tuple, err := nfnl.Parse(a.Value)
		if err != nil {
			return false, err
		}
		for ip, err := range nfnl.Each(tuple[ctaTupleIP].Value) {
			if err != nil {
				return false, err
			}
			if addr, ok := netip.AddrFromSlice(ip.Value); ok && slices.Contains(addrs, addr) {
				return true, nil
			}
		}
	}
	return false, nil
}
