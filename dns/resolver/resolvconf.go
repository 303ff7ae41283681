//go:build linux

package resolver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/twill-cni/twill/ipam"
)

const (
	resolvConfPeriod = 2 * time.Second
	maxResolvConf    = 64 << 10 // bytes
)

// ReadResolvConf returns the name servers of a resolv.conf(5). Those that are no addresses are passed over.
func ReadResolvConf(name string) ([]netip.AddrPort, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read upstreams: %w", err)
	}
	defer f.Close() // it was read only
	data, err := io.ReadAll(io.LimitReader(f, maxResolvConf))
	if err != nil {
		return nil, fmt.Errorf("read upstreams: %w", err)
	}
	conf, err := ipam.ParseResolvConf(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read upstreams: %s: %w", name, err)
	}
	var out []netip.AddrPort
	for _, text := range conf.Nameservers {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, netip.AddrPortFrom(addr.Unmap(), 53))
		}
	}
	return out, nil
}

// followResolvConf takes upstreams from the file whenever it changes. A file that cannot be read, or names nobody, leaves those of before: programs
// that write it do not all do so at once.
func (s *Server) followResolvConf(ctx context.Context) {
	tick := time.NewTicker(resolvConfPeriod)
	defer tick.Stop()
	said := ""
	for {
		list, err := ReadResolvConf(s.options.ResolvConf)
		switch {
		case err != nil && err.Error() != said:
			said = err.Error()
			s.options.Log.Warn("upstreams stay as they are", "err", err)
		case err == nil:
			said = ""
			if len(list) > 0 && !slices.Equal(list, *s.upstreams.list.Load()) {
				s.upstreams.set(list)
				s.options.Log.Info("names outside of the cluster are asked for", "at", list)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
